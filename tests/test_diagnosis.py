"""The diagnosis: setups whose reload can't work are named before it matters."""

import contextlib
import datetime as dt
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from rekeyd.checking import check
from rekeyd.reload import diagnosis
from rekeyd.reload.diagnosis import Scene, diagnose, tell
from rekeyd.reload.mounts import Mount
from rekeyd.settings import Settings
from rekeyd.trust.generation import Finding, Part, Severity
from support.daemon import SOURCE_ROOT
from support.generations import Site, settings_of

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which needs root")


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user may enter; pytest's own are closed to others."""
    made = Path(tempfile.mkdtemp(prefix="rekeyd-diagnosis-"))
    made.chmod(0o755)
    yield made.resolve()
    shutil.rmtree(made)


def keyed(folder: Path, *, mode: int = 0o640, group: int = NOBODY) -> dict[str, Path]:
    """Certificate and key as root leaves them for a service in a group."""
    for name in ("tls.crt", "tls.key"):
        (folder / name).write_text("PEM")
        (folder / name).chmod(mode)
        os.chown(folder / name, -1, group)
    return {"tls.cert": folder / "tls.crt", "tls.key": folder / "tls.key"}


def said_of(
    rule: str,
    paths: Mapping[str, Path],
    *,
    mounts: tuple[Mount, ...] = (),
    environ: Mapping[str, str] | None = None,
    user: int | None = None,
) -> list[tuple[str, str]]:
    """Keys and messages, as found by that user (who runs the tests, if None)."""
    with acting_as(user):
        scene = Scene(paths, mounts, environ or {}, os.geteuid())
        return [(key, message) for key, message, fix in diagnosis.RULES[rule](scene) if fix]


def settings_naming(paths: Mapping[str, Path], **tls: Path) -> Settings:
    named = {key.removeprefix("tls."): str(path) for key, path in paths.items()}
    absent = {"cert": None, "key": None}
    return settings_of(tls={**absent, **named, **{key: str(path) for key, path in tls.items()}})


@contextlib.contextmanager
def acting_as(user: int | None) -> Iterator[None]:
    if user is None:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


# A file that can never change


def test_a_plain_setup_has_nothing_to_complain_of(folder: Path) -> None:
    assert diagnose(settings_naming(keyed(folder, group=os.getegid(), mode=0o600)), {}) == ()


def test_a_file_that_is_a_mount_point_is_pinned(folder: Path) -> None:
    paths = keyed(folder, group=-1)
    mount = Mount(folder / "tls.crt", "/somewhere/tls.crt", "ext4")

    [(key, message)] = said_of("pinned_file", paths, mounts=(mount,))

    assert key == "tls.cert"
    assert "a bind mount, or a volume's subPath" in message
    assert "already" not in message


def test_a_pinned_file_that_was_replaced_already_is_told_as_such(folder: Path) -> None:
    mount = Mount(folder / "tls.crt", "/somewhere/tls.crt//deleted", "ext4")

    [(_, message)] = said_of("pinned_file", keyed(folder, group=-1), mounts=(mount,))

    assert "replaced there already" in message


def test_a_link_to_a_pinned_file_is_followed(folder: Path) -> None:
    paths = keyed(folder, group=-1)
    (folder / "link").symlink_to("tls.crt")
    mount = Mount(folder / "tls.crt", "/somewhere/tls.crt", "ext4")

    assert said_of("pinned_file", {**paths, "tls.cert": folder / "link"}, mounts=(mount,))


def test_a_sub_path_of_a_folder_is_pinned_to_its_date(folder: Path) -> None:
    mount = Mount(folder, "/..2026_01_02_03_04_05.678/site", "tmpfs")

    found = said_of("pinned_file", keyed(folder, group=-1), mounts=(mount,))

    assert [key for key, _ in found] == ["tls.cert", "tls.key"]


def test_a_whole_volume_is_not_pinned(folder: Path) -> None:
    mounts = (Mount(Path("/"), "/", "ext4"), Mount(folder, "/", "tmpfs"))

    assert said_of("pinned_file", keyed(folder, group=-1), mounts=mounts) == []


def may_mount() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="makes a bind mount in a namespace of its own, which needs root")
def test_a_real_bind_mount_is_found(folder: Path) -> None:
    keyed(folder, group=-1)
    (folder / "outside.crt").write_text("PEM")
    look = (
        "import json, os; from pathlib import Path; from rekeyd.reload import diagnosis as d; "
        f"scene = d.Scene({{'tls.cert': Path('{folder}/tls.crt')}}, d._mounts(), {{}}, os.geteuid()); "
        "print(json.dumps([(f.rule, f.severity, f.message) for f in d.complaints(scene)]))"
    )
    script = f'mount --bind outside.crt tls.crt && mv tls.key outside.crt && "{sys.executable}" -c "{look}"'
    ran = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr

    [(rule, severity, message)] = json.loads(ran.stdout)
    assert (rule, severity) == ("pinned_file", "warn")
    assert "replaced there already" in message


# A credential of systemd's


def test_a_credential_is_named_as_frozen(folder: Path) -> None:
    paths = keyed(folder, group=-1)

    found = said_of("frozen_credential", paths, environ={"CREDENTIALS_DIRECTORY": str(folder)})

    assert [key for key, _ in found] == ["tls.cert", "tls.key"]
    assert said_of("frozen_credential", paths, environ={"CREDENTIALS_DIRECTORY": "/run/other"}) == []
    assert said_of("frozen_credential", paths) == []


def test_so_is_one_that_is_named_by_its_path(folder: Path) -> None:
    named = {"tls.ca_cert": Path("/run/credentials/rekeyd.service/ca"), "tls.crl": folder / "tls.crl"}
    [(key, message)] = said_of("frozen_credential", named)
    assert key == "tls.ca_cert"
    assert "copies once, when the service starts" in message


def test_a_pepper_and_a_passphrase_may_well_be_frozen(folder: Path) -> None:
    keys = ("access.pepper_file", "tls.key_passphrase_file", "tls.certificates[2].key_passphrase_file")
    environ = {"CREDENTIALS_DIRECTORY": str(folder)}
    assert said_of("frozen_credential", dict.fromkeys(keys, folder / "tls.key"), environ=environ) == []


# A key that can be read now


@as_root
def test_a_key_readable_only_by_its_own_group_is_at_risk(folder: Path) -> None:
    [(key, message)] = said_of("key_access_at_risk", keyed(folder), user=NOBODY)

    assert key == "tls.key"
    assert "only because of this file's own group" in message


@as_root
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_key_that_nobody_or_everybody_may_read_says_nothing_of_the_next(folder: Path, mode: int) -> None:
    assert said_of("key_access_at_risk", keyed(folder, mode=mode), user=NOBODY) == []


@as_root
def test_a_folder_that_passes_its_group_on_is_no_risk(folder: Path) -> None:
    paths = keyed(folder)
    os.chown(folder, -1, NOBODY)
    folder.chmod(0o2755)

    assert said_of("key_access_at_risk", paths, user=NOBODY) == []


@as_root
def test_a_folder_with_a_default_access_list_is_no_risk(folder: Path) -> None:
    paths = keyed(folder)
    undefined = 0xFFFFFFFF
    entries = [
        (1, 7, undefined),
        (2, 4, NOBODY),
        (4, 5, undefined),
        (0x10, 5, undefined),
        (0x20, 5, undefined),
    ]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(folder, diagnosis.DEFAULT_ACL, acl)
    except OSError as error:
        pytest.skip(f"the file system has no access lists: {error}")

    assert said_of("key_access_at_risk", paths, user=NOBODY) == []


@as_root
def test_earlier_versions_are_better_evidence_than_the_folder(folder: Path) -> None:
    paths = keyed(folder)
    for number in (1, 2, 3):
        keyed(folder)["tls.key"].rename(folder / f"privkey{number}.pem")
    (folder / "privkey.pem").symlink_to("privkey3.pem")
    paths["tls.key"] = folder / "privkey.pem"

    assert said_of("key_access_at_risk", paths, user=NOBODY) == []
    (folder / "privkey2.pem").chmod(0o600)
    [(_, message)] = said_of("key_access_at_risk", paths, user=NOBODY)
    assert "it may not read privkey2.pem" in message


@as_root
def test_a_kubernetes_volume_gives_every_file_the_same_mode(folder: Path) -> None:
    (folder / "..2026_01").mkdir()
    keyed(folder / "..2026_01")
    (folder / "..data").symlink_to("..2026_01")
    (folder / "tls.key").symlink_to("..data/tls.key")

    assert said_of("key_access_at_risk", {"tls.key": folder / "tls.key"}, user=NOBODY) == []


def test_the_owner_of_a_key_and_root_are_at_no_risk(folder: Path) -> None:
    assert said_of("key_access_at_risk", keyed(folder, group=-1)) == []


# A folder that can't be watched


@as_root
def test_a_folder_that_can_be_entered_but_not_read_is_only_polled(folder: Path) -> None:
    paths = keyed(folder)
    folder.chmod(0o711)

    [(key, message)] = said_of("unwatchable_folder", paths, user=NOBODY)

    assert key == "tls.cert"
    assert f"the folder {folder} can't be watched by uid {NOBODY}" in message


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_a_file_system_whose_changes_come_from_elsewhere_is_named(folder: Path, kind: str) -> None:
    mounts = (Mount(Path("/"), "/", "ext4"), Mount(folder, "/", kind))

    [(key, message)] = said_of("no_events", keyed(folder, group=-1), mounts=mounts)

    assert key == "tls.cert"
    assert f"is on {kind}" in message


# How it is told


def test_findings_only_ever_warn_and_name_the_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyed(folder, group=-1)
    scene = Scene({"tls.ca_cert": folder / "tls.crt"}, (), {"CREDENTIALS_DIRECTORY": str(folder)}, 0)
    found = diagnosis.complaints(scene)

    assert [(f.rule, f.severity, f.part) for f in found] == [
        ("frozen_credential", Severity.WARN, Part.CLIENT_CA)
    ]
    assert found[0].message.startswith("tls.ca_cert: ")


def test_a_machine_without_mountinfo_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "MOUNTINFO", folder / "absent")

    assert diagnose(settings_naming(keyed(folder, group=-1, mode=0o600)), {}) == ()


def test_files_that_are_missing_are_no_error(folder: Path) -> None:
    absent = {"tls.cert": folder / "a" / "b.crt", "tls.key": folder / "a" / "b.key"}

    assert diagnose(settings_naming(absent, certificate_dir=folder / "c"), {}) == ()


def test_the_pairs_of_a_folder_are_looked_at_as_well(folder: Path) -> None:
    (folder / "site").mkdir()
    keyed(folder / "site", group=-1)
    settings = settings_naming({}, certificate_dir=folder)

    found = diagnose(settings, {"CREDENTIALS_DIRECTORY": str(folder)})

    assert [finding.part for finding in found] == [Part.SERVER_CERTIFICATE] * 2
    assert found[0].message.startswith("tls.certificate_dir[site/tls.crt]: ")


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("tls.key", True),
        ("tls.certificates[2].key", True),
        ("tls.certificate_dir[a.example.org/privkey.pem]", True),
        ("tls.certificate_dir[a.key]", True),
        ("tls.key_passphrase_file", True),
        ("tls.cert", False),
        ("tls.certificate_dir[a.crt]", False),
        ("tls.ca_cert", False),
    ],
)
def test_files_that_only_the_service_should_read_are_told_by_their_key(key: str, secret: bool) -> None:
    assert bool(diagnosis._SECRET.search(key)) is secret


def test_each_finding_is_one_warning_in_the_log() -> None:
    structlog.reset_defaults()
    with capture_logs() as lines:
        tell((Finding("pinned_file", Severity.WARN, Part.SERVER_CERTIFICATE, "it is pinned", "Mount more"),))

    assert lines == [
        {
            "event": "setup.doubtful",
            "log_level": "warning",
            "rule": "pinned_file",
            "part": "server_certificate",
            "message": "it is pinned",
            "fix": "Mount more",
        }
    ]


def test_check_tells_them_and_calls_the_files_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    report = check(site.disk, dt.datetime.now(dt.UTC))

    assert report.good
    assert [line.partition(":")[0] for line in report.lines() if line.startswith("warn")] == [
        "warn (frozen_credential)"
    ] * 2
