"""The disk: one consistent snapshot, every problem at once, and the same bytes that were judged."""

import json
import threading
from pathlib import Path

import pytest

from rekeyd.errors import SettingsError
from rekeyd.reload import disk as disk_module
from rekeyd.reload.disk import Disk
from rekeyd.trust.generation import Part, Severity
from rekeyd.trust.keys import Right
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

    assert candidate.material is not None
    assert candidate.material.leaf.sha256 == site.leaf.fingerprint
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


def test_with_tls_off_the_certificate_is_not_even_looked_for(site: Site) -> None:
    site.configure(service={"enable_tls": False}, tls={"cert": "absent.pem", "key": "absent.key"})

    candidate = site.disk.load()

    assert candidate.material is None
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

    assert candidate.material is None
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

    assert disk.load().material is not None


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
                seen.add((contents["tls.cert"], contents["tls.key"]))
    finally:
        stop.set()
        writer.join()

    assert seen
    assert seen <= set(pairs)


def test_files_that_never_stand_still_are_given_up_with_a_reason(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = 0

    def changing(path: Path) -> bytes:
        nonlocal passes
        passes += 1
        return path.read_bytes() + b"\n" * (passes if path == site.cert else 0)

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
