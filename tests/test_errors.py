from rekeyd.errors import Problem, RekeydError, SettingsError

CERT = Problem("/etc/rekeyd.yaml", "tls.cert", "names a file that does not exist", "Create it")
FILE = Problem("/etc/rekeyd.yaml", "", "is not YAML", "")


def test_a_problem_reads_as_file_key_what_and_fix() -> None:
    assert str(CERT) == "/etc/rekeyd.yaml: tls.cert: names a file that does not exist. Create it."


def test_a_problem_without_key_or_fix_leaves_them_out() -> None:
    assert str(FILE) == "/etc/rekeyd.yaml: is not YAML."


def test_a_settings_error_tells_every_problem_and_keeps_them() -> None:
    error = SettingsError([CERT, FILE])
    assert error.problems == (CERT, FILE)
    assert str(error).splitlines() == [str(CERT), str(FILE)]
    assert isinstance(error, RekeydError)
