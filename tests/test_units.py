"""The units say what the README says, and systemd has nothing to say against them.

That they work is shown in `tests/systemd/`, by starting them.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from rekeyd.front import places_in
from rekeyd.reload.vault import ROOM
from support.generations import settings_of

FOLDER = Path(__file__).parents[1] / "systemd"
SERVICES = ("rekeyd.service", "rekeyd@.service")
SOCKETS = {
    "rekeyd.socket": ("http", 6333),
    "rekeyd-grpc.socket": ("grpc", 6334),
    "rekeyd-peer.socket": ("p2p", 6335),
}
DRAIN_TIMEOUT = START_WAIT = 30
FIRST_WITH_NOTIFY_RELOAD = 253


def directives(file: Path) -> Iterator[tuple[str, str]]:
    for line in file.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            yield key, value


def values(name: str) -> dict[str, list[str]]:
    """What each directive of a unit is set to, in the order of the file."""
    told = sorted(directives(FOLDER / name), key=lambda each: each[0])
    return {key: [value for _, value in group] for key, group in groupby(told, key=lambda each: each[0])}


@pytest.fixture
def analyze() -> str:
    command = shutil.which("systemd-analyze")
    if command is None:
        pytest.skip("systemd-analyze is not installed")
    return command


def ran(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(each) for each in command], capture_output=True, text=True, check=False, timeout=30
    )


def version(analyze: str) -> int:
    return int(ran(analyze, "--version").stdout.split()[1])


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """All units in a folder, with commands that are there on every machine."""
    for name in (*SERVICES, *SOCKETS):
        text = (FOLDER / name).read_text()
        (tmp_path / name).write_text(re.sub(r"(?m)^(Exec\w+)=/\S+", r"\1=/bin/true", text))
    return tmp_path


def with_drop_in(units: Path, name: str) -> Path:
    folder = units / "rekeyd.service.d"
    folder.mkdir()
    shutil.copy(FOLDER / "drop-ins" / name, folder)
    return units


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("ExecReload", "/usr/local/bin/rekeyd reload --wait -c /etc/rekeyd/rekeyd.yaml"),
        ("Restart", "on-failure"),
        ("RestartPreventExitStatus", "2"),
        ("KillMode", "mixed"),
        ("WatchdogSec", "30"),
        ("FileDescriptorStoreMax", "4"),
        ("Environment", "FDSTORE=4"),
        ("DynamicUser", "yes"),
        ("RuntimeDirectory", "rekeyd"),
        ("StateDirectory", "rekeyd"),
        ("LogsDirectory", "rekeyd"),
        ("LogsDirectoryMode", "0750"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("MemoryDenyWriteExecute", "yes"),
        ("LimitCORE", "0"),
        ("UMask", "0077"),
    ],
)
def test_the_essentials_are_as_documented(key: str, value: str) -> None:
    assert values("rekeyd.service")[key] == [value]


def test_it_is_left_the_time_to_drain_and_to_wait_for_whole_files() -> None:
    assert int(values("rekeyd.service")["TimeoutStopSec"][0]) > DRAIN_TIMEOUT
    assert int(values("rekeyd.service")["TimeoutStartSec"][0]) > START_WAIT


@pytest.mark.parametrize(("name", "file"), [("rekeyd.service", "rekeyd"), ("rekeyd@.service", "%i")])
def test_it_starts_the_command_that_serves_and_no_shell(name: str, file: str) -> None:
    (command,) = values(name)["ExecStart"]
    assert re.fullmatch(rf"/\S+/rekeyd serve -c /etc/rekeyd/{file}\.yaml", command)


@pytest.mark.parametrize("name", SERVICES)
def test_every_directive_is_there_once_but_for_the_filter(name: str) -> None:
    assert [key for key, values in values(name).items() if len(values) > 1] == ["SystemCallFilter"]


def test_an_instance_differs_by_its_name_its_user_and_its_folders_alone() -> None:
    one, several = values("rekeyd.service"), values("rekeyd@.service")
    named = {
        key: [re.sub(r"rekeyd-%i|%i", "rekeyd", value) for value in found] for key, found in several.items()
    }
    assert several["User"] == ["rekeyd-%i"]
    assert named.pop("SupplementaryGroups") == ["rekeyd"]
    assert named.pop("Description") == ["rekeyd rekeyd: TLS and API keys in front of a service that has none"]
    del one["Description"]
    assert named == one


@pytest.mark.parametrize("name", SOCKETS)
def test_each_socket_says_what_it_is_for_and_waits_where_the_setting_has_its_port(name: str) -> None:
    called, port = SOCKETS[name]
    assert values(name) | {"Description": [], "Documentation": []} == {
        "Description": [],
        "Documentation": [],
        "ListenStream": [f"0.0.0.0:{port}"],
        "FileDescriptorName": [called],
        "Service": ["rekeyd.service"],
        "WantedBy": ["sockets.target"],
    }


def test_each_socket_is_called_as_the_daemon_calls_the_listener_for_it() -> None:
    peers = {"enable_tls": True, "upstream": "127.0.0.1:7335", "allowed_peers": ["dns:*.test"]}
    settings = settings_of(
        service={"grpc_port": 6334},
        tls={"ca_cert": "ca.pem"},
        upstream={"http": "http://127.0.0.1:7333", "grpc": "http://127.0.0.1:7334"},
        cluster={"p2p": peers},
    )
    assert {place.name for place in places_in(settings)} == {called for called, _ in SOCKETS.values()}


def test_it_has_room_for_the_former_generation_beside_the_new_one() -> None:
    for name in SERVICES:
        room = values(name)["FileDescriptorStoreMax"][0]
        assert int(room) >= ROOM
        assert values(name)["Environment"] == [f"FDSTORE={room}"]


def test_what_confines_its_writes_is_not_forbidden_by_the_filter() -> None:
    calls = ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")
    for name in SERVICES:
        allowed, forbidden = values(name)["SystemCallFilter"]
        assert allowed.split() == ["@system-service", *calls]
        assert forbidden == "~@privileged @resources"


def test_systemd_has_nothing_to_say_against_any_unit(analyze: str, units: Path) -> None:
    done = ran(analyze, "verify", "--man=no", *(units / name for name in (*SERVICES, *SOCKETS)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", sorted(path.name for path in (FOLDER / "drop-ins").iterdir()))
def test_systemd_has_nothing_to_say_against_a_drop_in_that_it_is_new_enough_for(
    name: str, analyze: str, units: Path
) -> None:
    done = ran(analyze, "verify", "--man=no", with_drop_in(units, name) / "rekeyd.service")
    if name == "notify-reload.conf" and version(analyze) < FIRST_WITH_NOTIFY_RELOAD:
        assert "notify-reload" in done.stderr
    else:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_user_is_made_by_a_line_that_systemd_reads() -> None:
    command = shutil.which("systemd-sysusers")
    if command is None:
        pytest.skip("systemd-sysusers is not installed")
    done = ran(command, "--dry-run", FOLDER / "sysusers.d" / "rekeyd.conf")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "drop_in", "worst"),
    [
        ("rekeyd.service", None, 1.1),
        ("rekeyd@.service", None, 1.1),
        ("rekeyd.service", "sockets-only.conf", 0.3),
        ("rekeyd.service", "notify-reload.conf", 1.1),
    ],
)
def test_its_exposure_is_as_small_as_such_a_service_can_have_it(
    name: str, drop_in: str | None, worst: float, analyze: str, tmp_path: Path
) -> None:
    # Offline no drop-in is read: as systemd does, what it says comes after what the unit says.
    text = (FOLDER / name).read_text() + ((FOLDER / "drop-ins" / drop_in).read_text() if drop_in else "")
    (tmp_path / name).write_text(text)
    done = ran(analyze, "security", "--offline=true", tmp_path / name)
    score = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    if score is None:
        pytest.skip(f"this systemd-analyze can't judge a file: {done.stderr.strip()}")
    assert float(score.group(1)) <= worst
