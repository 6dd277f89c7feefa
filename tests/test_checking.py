import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from rekeyd.checking import check, socket_named_in
from rekeyd.errors import SettingsError
from rekeyd.reload.disk import Disk
from support.generations import API_KEY, Site
from support.key_files import digest_of, entry, write
from support.live import serial_text
from support.pki import DAY, Authority, now, write_torn
from support.tokens import AUDIENCE, ISSUER, Issuer, key_set


def report_of(site: Site, at: dt.datetime | None = None) -> tuple[bool, str]:
    report = check(Disk(site.file, {}), at or now())
    return report.good, "\n".join(report.lines())


def rows_of(text: str, first: str) -> list[str]:
    """The row of that beginning, as words."""
    return next(line for line in text.splitlines() if line.startswith(first)).split()


def test_certificates_and_keys_are_listed_and_no_secret_is(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.configure(service={"read_only_api_key": "a-made-up-key-that-reads"})
    good, text = report_of(site, now() + dt.timedelta(hours=1))
    assert good
    row = rows_of(text, "server")
    assert row[1:5] == ["localhost,", "127.0.0.1", "ECDSA", "P-256"]
    assert row[-3:] == ["89", serial_text(site.leaf), site.leaf.fingerprint[:16]]
    assert rows_of(text, "api_key") == ["api_key", "manage"]
    assert rows_of(text, "read_only_api_key") == ["read_only_api_key", "read"]
    assert API_KEY not in text
    assert "a-made-up-key-that-reads" not in text
    assert "PRIVATE KEY" not in text


def test_keys_of_the_file_are_listed_with_limits_and_expiry_and_some_of_very_many(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.configure(access={"keys_file": "keys.yaml"})
    expiring = [{"digest": digest_of("b"), "expires": "2999-01-01"}]
    write(
        tmp_path / "keys.yaml",
        {"id": "a", "collections": {"books": "read"}, "rate": 5, "secrets": [{"digest": digest_of("a")}]},
        {"id": "b", "right": "write", "secrets": expiring},
        *(entry(f"k{n}") for n in range(30)),
    )
    good, text = report_of(site)
    assert good
    assert rows_of(text, "a ") == ["a", "books=read", "5/s"]
    assert rows_of(text, "b ") == ["b", "write", "2999-01-01", "00:00", "UTC"]
    assert "and 13 more keys" in text
    assert digest_of("a")[7:] not in text


def test_the_chain_and_the_authorities_of_clients_are_listed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.authority.intermediate("the middle").issue().write(tmp_path)
    Authority("whom clients come from").write(tmp_path / "ca.pem")
    site.configure(
        service={"verify_https_client_certificate": True},
        tls={"ca_cert": "ca.pem"},
    )
    good, text = report_of(site)
    assert good
    assert "the middle" in text
    assert text.index("  issuer") > text.index("server")
    assert "whom clients come from" in " ".join(rows_of(text, "client CA"))


def test_what_would_be_refused_is_not_good_and_says_why(tmp_path: Path) -> None:
    site = Site(tmp_path)
    write_torn(site.cert, site.leaf.chain_pem)
    good, text = report_of(site)
    assert not good
    assert f"refuse (truncated_pem): {site.cert}: a PEM block begins and does not end" in text


def test_what_the_clock_refuses_is_not_good(tmp_path: Path) -> None:
    site = Site(tmp_path)
    good, text = report_of(site, now() + 100 * DAY)
    assert not good
    assert "refuse (expired)" in text
    good, text = report_of(site, now() - 2 * DAY)
    assert not good
    assert "(not_yet_valid)" in text


def test_what_openssl_will_not_have_is_not_good(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.configure(tls={"ciphers": "NO-SUCH-CIPHER"})
    good, text = report_of(site)
    assert not good
    assert "refuse (context): OpenSSL knows none of the ciphers in tls.ciphers" in text


def test_warnings_are_told_once_and_are_good(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.configure(service={"host": "0.0.0.0", "enable_tls": False}, storage={"storage_path": "x"})  # noqa: S104
    good, text = report_of(site)
    assert good
    assert text.count("cross the network in the clear") == 1
    assert "CERTIFICATE" not in text
    assert "ignored: storage" in text


def test_what_can_not_be_judged_raises_every_problem(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.configure(service={"http_port": "x"}, tls={"cert": "absent.crt"})
    with pytest.raises(SettingsError) as caught:
        report_of(site)
    assert {problem.key for problem in caught.value.problems} == {"service.http_port", "tls.cert"}


def test_an_audit_that_could_not_be_written_is_told_with_its_place_and_makes_no_file(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.configure(logging={"audit": "absent/audit.log"})
    with pytest.raises(
        SettingsError, match=r"rekeyd\.yaml: logging\.audit: .*can't be written .*Name a file"
    ):
        report_of(site)
    (tmp_path / "absent").mkdir()
    assert report_of(site)[0]
    assert list((tmp_path / "absent").iterdir()) == []


def test_a_state_folder_that_a_start_would_not_get_is_told_and_not_made(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.configure(state={"directory": "absent/state"})
    with pytest.raises(SettingsError, match=r"absent/state: state\.directory: can't be written"):
        report_of(site)
    (tmp_path / "absent").mkdir()
    assert report_of(site)[0]
    assert list((tmp_path / "absent").iterdir()) == []


def test_what_a_start_could_not_write_does_not_hide_what_it_would_refuse(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.configure(logging={"audit": "absent/audit.log"}, state={"directory": "absent/state"})
    write_torn(site.cert, site.leaf.chain_pem)
    with pytest.raises(SettingsError) as caught:
        report_of(site)
    audit, state, *others = caught.value.problems
    assert (audit.key, state.key) == ("logging.audit", "state.directory")
    assert "truncated_pem" in [problem.rule for problem in others]


# Where the daemon answers


def document(admin: object, **more: object) -> bytes:
    return json.dumps(
        {"service": {"api_key": API_KEY}, "upstream": {"http": "demo"}, "admin": admin, **more}
    ).encode()


BROKEN = {"service": {"http_port": "x"}}


@pytest.mark.parametrize(
    ("source", "environ", "named"),
    [
        (document({"socket": "/run/there.sock"}), {}, "/run/there.sock"),
        (document({"socket": "here.sock"}), {}, "FOLDER/here.sock"),
        (document({}), {}, "/run/rekeyd/admin.sock"),
        (document({"socket": None}), {}, None),
        (document({}), {"REKEYD__ADMIN__SOCKET": "/run/told.sock"}, "/run/told.sock"),
        (document({"socket": "here.sock"}, **BROKEN), {}, "FOLDER/here.sock"),
        (document({"socket": "x"}, **BROKEN), {"REKEYD__ADMIN__SOCKET": "/run/told.sock"}, "/run/told.sock"),
        (document({}, **BROKEN), {}, "/run/rekeyd/admin.sock"),
        (document(None, **BROKEN), {}, "/run/rekeyd/admin.sock"),
        (document(["socket"], **BROKEN), {}, "/run/rekeyd/admin.sock"),
        (document({"socket": 3}), {}, "/run/rekeyd/admin.sock"),
        (document({}), {"RUNTIME_DIRECTORY": "/run/rekeyd-a:/run/b"}, "/run/rekeyd-a/admin.sock"),
        (document({}, **BROKEN), {"RUNTIME_DIRECTORY": "/run/rekeyd-a"}, "/run/rekeyd-a/admin.sock"),
        (b"[1]", {}, "/run/rekeyd/admin.sock"),
        (b"a: [", {}, "/run/rekeyd/admin.sock"),
        (b"\xff\xfe", {}, "/run/rekeyd/admin.sock"),
        (b"", {}, "/run/rekeyd/admin.sock"),
    ],
)
def test_the_socket_is_found_even_in_settings_that_are_no_good(
    tmp_path: Path, source: bytes, environ: Mapping[str, str], named: str | None
) -> None:
    file = tmp_path / "rekeyd.yaml"
    file.write_bytes(source)
    expected = None if named is None else Path(named.replace("FOLDER", str(tmp_path)))
    assert socket_named_in(file, environ) == expected


def test_a_file_that_can_not_be_read_is_a_problem_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"can't be read.*Give -c or --socket"):
        socket_named_in(tmp_path / "absent.yaml", {})


# The status


def test_keys_that_vouch_for_tokens_are_listed_and_those_that_are_passed_over_named(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.configure(
        service={"jwt_rbac": True},
        access={"jwks_file": "issuer.json", "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE},
    )
    keys = key_set(Issuer("a"), Issuer("d", "EdDSA"), Issuer("e").jwk(alg="PS256"))
    (tmp_path / "issuer.json").write_bytes(keys)
    good, text = report_of(site)
    assert good
    assert "TOKEN KEY  ALGORITHMS" in text
    assert rows_of(text, "jwks:a") == ["jwks:a", "RS256"]
    assert rows_of(text, "jwks:d") == ["jwks:d", "EdDSA,", "Ed25519"]
    assert ["api_key", "HS256"] in [line.split() for line in text.splitlines()]
    assert "warn (key_passed_over)" in text
    assert "key 3 (e)" in text

    (tmp_path / "issuer.json").write_bytes(key_set(Issuer("a"))[:-9])
    good, text = report_of(site)
    assert not good
    assert "refuse (unparsable)" in text
