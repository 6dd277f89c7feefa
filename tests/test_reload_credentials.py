"""Credentials of systemd's: read with everything else, taken up when they change, missed aloud."""

from pathlib import Path

import pytest

from rekeyd.checking import check
from rekeyd.cli import main
from rekeyd.commands.key_store import Store
from rekeyd.commands.token import settings_in
from rekeyd.errors import SettingsError
from rekeyd.reload.credentials import read_credentials
from rekeyd.reload.disk import Disk
from rekeyd.reload.starting import settings_to_start_with
from rekeyd.settings import parse
from support.daemon import Daemon
from support.generations import API_KEY, Site
from support.live import Connection, live_site
from support.pki import now, replace_file
from support.processes import as_nobody
from support.secrets import Ledger

KEY, OTHER = "4f1c0d9e8b7a69584736251403f2e1d0", "e1d04f1c0d9e8b7a69584736251403f2"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.configure(service={"api_key": "credential:api-key", "jwt_rbac": True})
    return site


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """The folder of credentials, with a key in it."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "api-key").write_text(f"{KEY}\n")
    return folder


def disk_of(site: Site, given: Path | None, **environ: str) -> Disk:
    return Disk(site.file, {**({"CREDENTIALS_DIRECTORY": str(given)} if given else {}), **environ})


def problems(disk: Disk) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        disk.load()
    assert {problem.rule for problem in caught.value.problems} == {"credential"}
    return [str(problem).removeprefix(f"{disk.paths[0]}: ") for problem in caught.value.problems]


def test_a_key_is_what_the_credential_holds(site: Site, given: Path) -> None:
    disk = disk_of(site, given)

    candidate = disk.load()

    assert [key.id for key in candidate.ring] == ["api_key"]
    assert candidate.ring.find(KEY.encode()) is not None
    assert [signer.id for signer in candidate.tokens.signers] == ["api_key"]
    assert given / "api-key" in disk.paths


def test_one_that_is_renewed_is_taken_up_with_the_next_reload(site: Site, given: Path) -> None:
    disk = disk_of(site, given)
    first = disk.load()

    replace_file(given / "api-key", OTHER.encode())
    second = disk.load()

    assert second.ring.find(KEY.encode()) is None
    assert second.ring.find(OTHER.encode()) is not None
    assert first.digest != second.digest


def test_after_a_pin_too(site: Site, given: Path) -> None:
    disk = disk_of(site, given)
    disk.pin(settings_to_start_with(disk).settings)
    replace_file(given / "api-key", OTHER.encode())
    assert disk.load().ring.find(OTHER.encode()) is not None


async def test_a_daemon_sees_one_that_is_renewed(ledger: Ledger, tmp_path: Path, given: Path) -> None:
    site = live_site(tmp_path, service={"api_key": "credential:api-key"})
    environ = {"CREDENTIALS_DIRECTORY": str(given)}
    async with Daemon.running(ledger, site.file, secrets=[KEY, OTHER], environ=environ) as daemon:
        replace_file(given / "api-key", OTHER.encode())
        await daemon.event("reload.applied", trigger="watch")
        async with Connection.to(daemon, site.authority) as client:
            assert (await client.ask(key=OTHER)).status == 200
            assert (await client.ask(key=KEY)).status == 401
        assert daemon.told("setup.doubtful") == []


def test_the_environment_may_name_one(site: Site, given: Path) -> None:
    site.configure()
    disk = disk_of(site, given, REKEYD__SERVICE__API_KEY="credential:api-key")
    ring = disk.load().ring
    assert (ring.find(KEY.encode()) is None, ring.find(API_KEY.encode()) is None) == (False, True)


def test_a_passphrase_a_pepper_and_the_upstreams_key_may_be_some(site: Site, given: Path) -> None:
    replace_file(site.key, site.leaf.encrypted_key_pem(b"open sesame"))
    (given / "passphrase").write_bytes(b"open sesame\n")
    (given / "pepper").write_bytes(b"p" * 32)
    (given / "upstream").write_bytes(b"of the upstream")
    (site.folder / "keys.yaml").write_text("keys: []\n...\n")
    site.configure(
        tls={"key_passphrase_file": "credential:passphrase"},
        access={"pepper_file": "credential:pepper", "keys_file": "keys.yaml"},
        upstream={"api_key": "credential:upstream"},
    )

    candidate = disk_of(site, given).load()

    assert candidate.faults == ()
    assert len(candidate.certificates) == 1
    assert candidate.ring.pepper_id
    assert candidate.settings.upstream.api_key is not None
    assert candidate.settings.upstream.api_key.get_secret_value() == "of the upstream"


def test_outside_a_service_it_is_said_what_is_missing_and_all_else_is_looked_at(site: Site) -> None:
    site.configure(
        service={"api_key": "credential:api-key"}, tls={"key_passphrase_file": "credential:secret"}
    )
    site.cert.write_bytes(b"torn")

    with pytest.raises(SettingsError) as caught:
        disk_of(site, None).load()
    told = "\n".join(map(str, caught.value.problems))

    assert "service.api_key: is `credential:…`, and this process was given no credentials" in told
    assert "`LoadCredential=NAME:FILE`" in told
    assert "tls.key_passphrase_file: is `credential:secret`, and this process was given no" in told
    assert "`LoadCredential=secret:FILE`" in told
    assert "CREDENTIALS_DIRECTORY=/run/credentials/rekeyd.service" in told
    site.rotate()
    assert len(problems(disk_of(site, None))) == 2


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (None, "is `credential:…`, and there is no such credential in"),
        (b"\n", "is a credential that is empty"),
        (b"\xff" * 20, "is a credential that is not UTF-8"),
        (b"k" * 5000, "is longer than 4096 characters"),
        (b"k" * (1024 * 1024 + 1), "is a credential that can't be used: `credential:…` is larger than 1 MiB"),
    ],
)
def test_a_credential_that_holds_no_key_is_refused(
    site: Site, given: Path, data: bytes | None, told: str
) -> None:
    (given / "api-key").unlink()
    if data is not None:
        (given / "api-key").write_bytes(data)

    [problem] = problems(disk_of(site, given))

    assert problem.startswith("service.api_key: ")
    assert told in problem
    assert "api-key" not in problem.removeprefix("service.api_key")


def test_a_folder_that_is_not_there_or_not_ours_is_told_as_that(site: Site, given: Path) -> None:
    [problem] = problems(disk_of(site, given / "gone"))
    assert f"is `credential:…`, and {given}/gone does not exist" in problem
    assert "Let CREDENTIALS_DIRECTORY be that of a service that runs." in problem

    parsed = parse(site.file.read_bytes(), file=site.file, environ={"CREDENTIALS_DIRECTORY": "/root"})
    with as_nobody():
        _, [denied] = read_credentials(parsed)
    assert "`credential:…` can't be read: the folder /root can't be entered by uid" in denied.message


def test_a_start_does_not_wait_for_one_that_is_missing(site: Site, given: Path) -> None:
    (given / "api-key").unlink()
    with pytest.raises(SettingsError):
        settings_to_start_with(disk_of(site, given))


def test_what_is_wrong_with_a_key_is_said_as_of_any_other(site: Site, given: Path) -> None:
    (given / "api-key").write_text("short")
    disk = disk_of(site, given)

    report = check(disk, now())

    assert "is shorter than 16 characters" in "\n".join(report.lines())
    assert disk.parsed is not None
    assert [warning.key for warning in disk.parsed.warnings] == ["service.api_key"]


def test_a_token_is_signed_with_one(
    site: Site, given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["token", "-c", str(site.file), "--access", "r"]
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert main(command) == 2
    assert "LoadCredential=" in capsys.readouterr().err

    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    assert main(command) == 0
    assert capsys.readouterr().out.count(".") == 2


def test_a_token_needs_none_but_those_that_sign(site: Site, given: Path) -> None:
    site.configure(
        service={"api_key": "credential:api-key", "read_only_api_key": "credential:absent"},
        upstream={"api_key": "credential:absent"},
    )
    settings = settings_in(site.file, {"CREDENTIALS_DIRECTORY": str(given)})
    assert settings.service.api_key is not None
    assert settings.service.api_key.get_secret_value() == KEY
    assert settings.service.read_only_api_key is None


def test_the_key_file_is_worked_on_without_those_that_cannot_be_read(
    site: Site, given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.configure(
        service={"api_key": "credential:api-key"},
        access={"keys_file": "keys.yaml"},
        upstream={"api_key": "credential:upstream"},
    )
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert main(["keys", "new", "reports", "--right", "read", "-c", str(site.file)]) == 0
    said = capsys.readouterr().err
    assert "service.api_key: is `credential:…`" in said
    assert "upstream.api_key" not in said

    environ = {"CREDENTIALS_DIRECTORY": str(given)}
    assert [key.id for key in Store.named_in(site.file, environ, None).read().ring] == ["api_key", "reports"]
    assert [key.id for key in Store.named_in(site.file, {}, None).read().ring] == ["reports"]


def test_a_pepper_that_cannot_be_read_is_said_in_the_same_words(site: Site, given: Path) -> None:
    site.configure(access={"keys_file": "keys.yaml", "pepper_file": "credential:pepper"})
    (site.folder / "keys.yaml").write_text("keys: []\n...\n")
    with pytest.raises(SettingsError, match="LoadCredential=pepper:FILE"):
        Store.named_in(site.file, {"CREDENTIALS_DIRECTORY": str(given)}, None).read()
