"""The disk: one consistent snapshot, every problem at once, and the same bytes that were judged."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from rekeyd.access.rights import Right
from rekeyd.errors import SettingsError
from rekeyd.reload import disk as disk_module
from rekeyd.reload.disk import Disk
from rekeyd.reload.files import File
from rekeyd.reload.folder import Contents, contents_of
from rekeyd.trust.generation import Candidate, Part, Severity
from support.generations import API_KEY, Site, document
from support.pki import Authority, replace_file, write_in_place, write_torn


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def problems(disk: Disk) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        disk.load()
    return [str(problem) for problem in caught.value.problems]


def test_settings_certificate_keys_and_policy_become_a_candidate(site: Site) -> None:
    candidate = site.disk.load()

    [material] = candidate.certificates
    assert material.leaf.sha256 == site.leaf.fingerprint
    assert candidate.settings.service.enable_tls
    assert candidate.policy.name == "qdrant"
    assert candidate.faults == ()
    [credential] = candidate.ring
    assert (credential.id, credential.right) == ("api_key", Right.MANAGE)
    assert candidate.ring.find(API_KEY.encode()) is credential


def test_static_keys_have_the_rights_that_qdrant_gives_them(site: Site) -> None:
    site.configure(
        service={"alt_api_key": "another-key-for-everything", "read_only_api_key": "a-key-that-reads"}
    )

    rights = {credential.id: credential.right for credential in site.disk.load().ring}

    assert rights == {"api_key": Right.MANAGE, "alt_api_key": Right.MANAGE, "read_only_api_key": Right.READ}


def test_the_environment_overrides_the_file(site: Site) -> None:
    disk = Disk(site.file, {"REKEYD__SERVICE__API_KEY": "another-key-for-everything"})

    assert disk.load().ring.find(API_KEY.encode()) is None


def test_the_digest_changes_with_any_byte_of_any_file(site: Site) -> None:
    first = site.disk.load().digest
    assert site.disk.load().digest == first

    write_in_place(site.cert, site.cert.read_bytes() + b"\n")
    second = site.disk.load().digest
    write_in_place(site.file, site.file.read_bytes() + b"\n# a comment")
    assert len({first, second, site.disk.load().digest}) == 3


def test_what_a_candidate_was_made_of_is_given_once_and_kept_no_longer(site: Site) -> None:
    assert site.disk.take_snapshot() is None
    candidate = site.disk.load()

    snapshot = site.disk.take_snapshot()

    assert snapshot is not None
    assert snapshot.digest == candidate.digest
    assert site.disk.take_snapshot() is None


def test_where_there_is_no_candidate_there_is_nothing_that_it_was_made_of(site: Site) -> None:
    site.disk.load()
    site.key.unlink()
    problems(site.disk)
    assert site.disk.take_snapshot() is None


def test_with_tls_off_the_certificate_is_not_even_looked_for(site: Site) -> None:
    site.configure(service={"enable_tls": False}, tls={"cert": "absent.pem", "key": "absent.key"})

    candidate = site.disk.load()

    assert candidate.certificates == ()
    assert list(site.disk.paths) == [site.file]


def test_the_client_ca_is_read_only_where_clients_are_verified(site: Site) -> None:
    site.configure(tls={"ca_cert": "ca.pem"})
    assert site.disk.load().anchors is None

    site.authority.write(site.folder / "ca.pem")
    site.configure(tls={"ca_cert": "ca.pem"}, service={"verify_https_client_certificate": "optional"})
    anchors = site.disk.load().anchors
    assert anchors is not None
    assert anchors.pem == site.authority.pem


def test_the_upstreams_ca_is_part_of_the_candidate(site: Site) -> None:
    upstream = Authority("upstream CA")
    upstream.write(site.folder / "upstream.pem")
    site.configure(upstream={"http": "https://127.0.0.1:6334", "ca_cert": "upstream.pem"})

    candidate = site.disk.load()

    assert candidate.upstream_anchors is not None
    assert candidate.upstream_anchors.pem == upstream.pem


def test_a_policy_file_is_read_and_public_paths_are_added(site: Site) -> None:
    (site.folder / "policy.yaml").write_text("open: [/ping]\nrights: {GET /things: read}\n")
    site.configure(access={"policy": "policy.yaml", "public": ["/hello"]})

    policy = site.disk.load().policy

    assert policy.is_open(b"GET", b"/ping")
    assert policy.is_open(b"GET", b"/hello")
    assert policy.rule_for(b"GET", b"/things") is not None


@pytest.mark.parametrize("name", ["qdrant", "http"])
def test_the_shipped_policies_are_there(site: Site, name: str) -> None:
    site.configure(access={"policy": name})

    assert site.disk.load().policy.name == name


def test_a_torn_certificate_is_a_fault_for_the_judge(site: Site) -> None:
    write_torn(site.cert, site.leaf.chain_pem)

    candidate = site.disk.load()

    assert candidate.certificates == ()
    [fault] = candidate.faults
    assert (fault.rule, fault.severity, fault.part) == (
        "truncated_pem",
        Severity.REFUSE,
        Part.SERVER_CERTIFICATE,
    )
    assert str(site.cert) in fault.message


def test_the_key_of_another_pair_is_a_fault_at_the_key_file(site: Site) -> None:
    replace_file(site.key, site.authority.issue().key_pem)

    [fault] = site.disk.load().faults

    assert fault.rule == "key_mismatch"
    assert str(site.key) in fault.message


def test_an_emptied_client_ca_is_a_fault(site: Site) -> None:
    (site.folder / "ca.pem").touch()
    site.configure(tls={"ca_cert": "ca.pem"}, service={"verify_https_client_certificate": True})

    [fault] = site.disk.load().faults

    assert (fault.rule, fault.part) == ("empty", Part.CLIENT_CA)


def test_what_the_settings_warn_of_is_a_finding_that_warns(site: Site) -> None:
    site.configure(service={"api_key": "short"})

    [finding] = site.disk.load().faults

    assert (finding.rule, finding.severity, finding.part) == ("settings", Severity.WARN, Part.SETTINGS)
    assert finding.message.startswith("service.api_key is shorter than")


def test_every_problem_is_told_at_once(site: Site) -> None:
    site.configure(
        tls={"cert": "absent.crt", "ca_cert": "absent-ca.pem"},
        service={"verify_https_client_certificate": True},
        upstream={"http": "https://127.0.0.1:6334", "ca_cert": "torn.pem"},
        access={"policy": "policy.yaml"},
    )
    write_torn(site.folder / "torn.pem", site.authority.pem)
    (site.folder / "policy.yaml").write_text("opened: [/ping]\n")

    told = problems(site.disk)

    assert len(told) == 4
    for place in ("absent.crt", "absent-ca.pem", "torn.pem", "policy.yaml"):
        assert sum(place in problem for problem in told) == 1, (place, told)


def test_a_missing_file_is_told_with_settings_file_key_and_line(site: Site) -> None:
    site.key.unlink()

    [problem] = problems(site.disk)

    assert problem.startswith(f"{site.file}: tls.key: {site.key} does not exist (line ")


def test_broken_settings_do_not_hide_a_missing_certificate(site: Site) -> None:
    site.configure(service={"htp_port": 1})
    site.cert.unlink()

    told = problems(site.disk)

    assert len(told) == 2
    assert "htp_port" in told[0]
    assert f"{site.cert} does not exist" in told[1]


def test_a_missing_settings_file_is_told(tmp_path: Path) -> None:
    [problem] = problems(Disk(tmp_path / "rekeyd.yaml", {}))

    assert "does not exist" in problem


def test_the_paths_are_those_of_the_last_attempt_even_if_it_failed(site: Site) -> None:
    assert list(site.disk.paths) == [site.file]
    site.disk.load()
    assert list(site.disk.paths) == [site.file, site.cert, site.key]

    site.configure(tls={"cert": "absent.crt"})
    problems(site.disk)
    assert list(site.disk.paths) == [site.file, site.folder / "absent.crt", site.key]

    write_in_place(site.file, b"service: [")
    problems(site.disk)
    assert {site.file, site.folder / "absent.crt", site.key} <= set(site.disk.paths)


def test_a_relative_settings_file_stays_where_it_was(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site.folder)
    disk = Disk(Path("rekeyd.yaml"), {})
    monkeypatch.chdir("/")

    assert disk.load().certificates


def test_no_secret_is_in_a_snapshots_repr(site: Site) -> None:
    snapshot = site.disk.snapshot()

    assert API_KEY not in repr(snapshot)
    assert site.leaf.key_pem.splitlines()[1].decode() not in repr(snapshot)


def test_a_snapshot_never_mixes_two_pairs(site: Site) -> None:
    """A writer swaps a link between two folders as fast as it can; each snapshot is of one or the other."""
    pairs = []
    for name in ("one", "two"):
        leaf = site.authority.issue()
        leaf.write(site.folder / name)
        pairs.append((leaf.chain_pem, leaf.key_pem))
    site.configure(tls={"cert": "live/tls.crt", "key": "live/tls.key"})
    stop = threading.Event()

    def swap() -> None:
        turn = 0
        while not stop.wait(0.001):
            turn += 1
            link = site.folder / "next"
            link.symlink_to("one" if turn % 2 else "two")
            link.replace(site.folder / "live")

    (site.folder / "live").symlink_to("one")
    writer = threading.Thread(target=swap)
    writer.start()
    seen = set()
    try:
        for _ in range(50):
            try:
                contents = site.disk.snapshot().contents
            except SettingsError as error:
                assert "keeps changing" in str(error)  # noqa: PT017 - it may
            else:
                seen.add((contents["tls.cert"].data, contents["tls.key"].data))
    finally:
        stop.set()
        writer.join()

    assert seen
    assert seen <= set(pairs)


def test_files_that_never_stand_still_are_given_up_with_a_reason(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = 0

    def changing(path: Path, _largest: int = 0) -> File:
        nonlocal passes
        passes += 1
        return File(path.read_bytes() + b"\n" * (passes if path == site.cert else 0))

    monkeypatch.setattr(disk_module, "read_file", changing)
    monkeypatch.setattr(disk_module, "PAUSE", 0.0)

    [problem] = problems(site.disk)

    assert "keeps changing" in problem
    assert passes == 3 * (disk_module.ATTEMPTS + 1)


def test_qdrants_own_sections_are_accepted_and_told(site: Site) -> None:
    replace_file(site.file, json.dumps(document(storage={"storage_path": "./storage"})).encode())

    site.disk.load()

    assert site.disk.parsed is not None
    assert site.disk.parsed.ignored == ("storage",)


# Many certificates.


def with_folder(site: Site, **tls: Any) -> Path:
    folder = site.folder / "certs"
    folder.mkdir(exist_ok=True)
    site.configure(tls={"certificate_dir": "certs", **tls})
    return folder


def names(candidate: Candidate) -> list[tuple[str, ...]]:
    return [material.leaf.names for material in candidate.certificates]


def test_default_list_and_folder_come_in_this_order(site: Site) -> None:
    folder = with_folder(site, certificates=[{"cert": "more/tls.crt", "key": "more/tls.key"}])
    site.authority.issue("listed.example").write(site.folder / "more")
    site.authority.issue("b.example").write(folder, cert="b.pem", key="b.key")
    site.authority.issue("a.example").write(folder / "a", cert="fullchain.pem", key="privkey.pem")

    candidate = site.disk.load()

    assert names(candidate) == [
        ("localhost", "127.0.0.1"),
        ("listed.example",),
        ("a.example",),
        ("b.example",),
    ]
    assert candidate.faults == ()


def test_without_a_default_pair_the_list_gives_the_default(site: Site) -> None:
    site.configure(tls={"cert": None, "key": None, "certificates": [{"cert": "tls.crt", "key": "tls.key"}]})

    default = site.disk.load().generation(1).default

    assert default is not None
    assert default.leaf.sha256 == site.leaf.fingerprint


def test_a_newcomer_that_is_half_written_is_a_fault_that_names_it(site: Site) -> None:
    folder = with_folder(site)
    site.authority.issue("a.example").write(folder / "a")
    newcomer = site.authority.issue("b.example")
    replace_file(folder / "b.crt", newcomer.chain_pem)

    [half] = site.disk.load().faults
    write_torn(folder / "b.key", newcomer.key_pem)
    [torn] = site.disk.load().faults
    replace_file(folder / "b.key", newcomer.key_pem)

    assert (half.rule, half.severity, half.part) == (
        "pair_incomplete",
        Severity.REFUSE,
        Part.SERVER_CERTIFICATE,
    )
    assert str(folder / "b.crt") in half.message
    assert torn.rule == "truncated_pem"
    assert str(folder / "b.key") in torn.message
    assert names(site.disk.load())[1:] == [("a.example",), ("b.example",)]


def test_an_emptied_folder_is_a_fault_and_a_missing_one_a_problem(site: Site) -> None:
    folder = with_folder(site)

    [fault] = site.disk.load().faults
    assert (fault.rule, fault.severity) == ("empty", Severity.REFUSE)

    folder.rmdir()
    [problem] = problems(site.disk)
    assert problem.startswith(f"{site.file}: tls.certificate_dir: {folder} does not exist (line ")
    assert folder in site.disk.paths


def test_a_file_of_the_folder_that_can_not_be_read_is_told_with_its_place(site: Site) -> None:
    folder = with_folder(site)
    site.authority.issue("a.example").write(folder / "a")
    (folder / "a" / "tls.key").unlink()
    (folder / "a" / "tls.key").symlink_to("gone")

    [problem] = problems(site.disk)

    assert f"tls.certificate_dir[a/tls.key]: {folder}/a/tls.key is a link to gone" in problem


def test_a_listed_file_that_is_missing_is_told_with_its_entry_and_line(site: Site) -> None:
    site.configure(
        tls={"certificates": [{"cert": "tls.crt", "key": "tls.key"}, {"cert": "x.crt", "key": "tls.key"}]}
    )

    [problem] = problems(site.disk)

    assert problem.startswith(
        f"{site.file}: tls.certificates[2].cert: {site.folder}/x.crt does not exist (line "
    )


def test_the_folder_those_within_and_all_their_files_are_watched(site: Site) -> None:
    folder = with_folder(site)
    site.authority.issue("a.example").write(folder / "a")
    site.authority.issue("b.example").write(folder, cert="b.crt", key="b.key")
    (folder / "empty").mkdir()

    site.disk.load()

    assert set(site.disk.paths) >= {
        folder,
        folder / "a",
        folder / "empty",
        folder / "a" / "tls.crt",
        folder / "a" / "tls.key",
        folder / "b.crt",
        folder / "b.key",
    }


def test_a_folder_that_changes_while_it_is_read_is_read_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_folder(site)
    site.authority.issue("a.example").write(folder / "a")
    newcomer, looks = site.authority.issue("b.example"), 0

    def growing(path: Path) -> Contents:
        nonlocal looks
        looks += 1
        if looks == 2:
            newcomer.write(folder / "b")
        return contents_of(path)

    monkeypatch.setattr(disk_module, "contents_of", growing)

    assert names(site.disk.load())[1:] == [("a.example",), ("b.example",)]
    assert looks == 3


def test_the_digest_changes_with_the_folder(site: Site) -> None:
    folder = with_folder(site)
    site.authority.issue("a.example").write(folder / "a")
    before = site.disk.load().digest

    site.authority.issue("b.example").write(folder / "b")

    assert site.disk.load().digest != before


def test_the_mode_of_a_key_comes_with_the_snapshot(site: Site) -> None:
    site.key.chmod(0o644)

    [material] = site.disk.load().certificates

    assert (material.origin.key, material.origin.key_mode) == (str(site.key), 0o644)


# Encrypted keys, and revoked clients.


@pytest.mark.parametrize("traditional", [False, True])
def test_an_encrypted_key_is_opened_with_the_passphrase_of_the_file(site: Site, *, traditional: bool) -> None:
    replace_file(site.key, site.leaf.encrypted_key_pem(b"open sesame", traditional=traditional))
    site.configure(tls={"key_passphrase_file": "passphrase"})
    replace_file(site.folder / "passphrase", b"open sesame\n")

    candidate = site.disk.load()

    assert candidate.faults == ()
    assert site.folder / "passphrase" in site.disk.paths
    assert candidate.certificates[0].leaf.sha256 == site.leaf.fingerprint


def test_each_entry_of_the_list_may_have_a_passphrase_of_its_own(site: Site) -> None:
    folder = with_folder(
        site,
        key_passphrase_file="common",
        certificates=[{"cert": "more/tls.crt", "key": "more/tls.key", "key_passphrase_file": "own"}],
    )
    replace_file(site.folder / "common", b"open sesame")
    replace_file(site.folder / "own", b"open barley")
    listed, found = site.authority.issue("listed.example"), site.authority.issue("a.example")
    listed.write(site.folder / "more")
    replace_file(site.folder / "more/tls.key", listed.encrypted_key_pem(b"open barley"))
    found.write(folder / "a")
    replace_file(folder / "a/tls.key", found.encrypted_key_pem(b"open sesame"))

    candidate = site.disk.load()

    assert candidate.faults == ()
    assert len(candidate.certificates) == 3


def test_a_wrong_passphrase_is_a_fault_and_nobody_tells_it(site: Site) -> None:
    replace_file(site.key, site.leaf.encrypted_key_pem(b"open sesame"))
    site.configure(tls={"key_passphrase_file": "passphrase"})
    replace_file(site.folder / "passphrase", b"open barley\n")

    [fault] = site.disk.load().faults

    assert fault.rule == "passphrase_wrong"
    assert str(site.key) in fault.message
    assert "barley" not in repr(fault) + repr(site.disk.snapshot())


def test_a_missing_passphrase_file_is_a_problem(site: Site) -> None:
    site.configure(tls={"key_passphrase_file": "passphrase"})

    [problem] = problems(site.disk)

    assert "tls.key_passphrase_file" in problem


def test_the_crl_is_read_only_where_clients_are_verified(site: Site) -> None:
    site.authority.write(site.folder / "ca.pem")
    site.configure(
        tls={"ca_cert": "ca.pem", "crl": "crl.pem"}, service={"verify_https_client_certificate": True}
    )
    replace_file(site.folder / "crl.pem", site.authority.crl(5))

    revocations = site.disk.load().revocations
    assert revocations is not None
    assert revocations.holds("CN=rekeyd test CA", 5)

    write_torn(site.folder / "crl.pem", site.authority.crl(5))
    [fault] = site.disk.load().faults
    assert (fault.rule, fault.part) == ("truncated_pem", Part.CLIENT_CRL)

    site.configure(tls={"ca_cert": "ca.pem", "crl": "absent.pem"})
    assert site.disk.load().revocations is None
