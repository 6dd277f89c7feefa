import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[1] / "systemd" / "rekeyd.service"
DRAIN_TIMEOUT = 30
WORST_EXPOSURE = 1.1


def directives() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def analyze() -> str:
    command = shutil.which("systemd-analyze")
    if command is None:
        pytest.skip("systemd-analyze is not installed")
    return command


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("ExecReload", "/usr/local/bin/rekeyd reload --wait -c /etc/rekeyd/rekeyd.yaml"),
        ("Restart", "on-failure"),
        ("RestartPreventExitStatus", "2"),
        ("KillMode", "mixed"),
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
    assert directives()[key] == [value]


def test_it_is_left_the_time_to_drain() -> None:
    assert int(directives()["TimeoutStopSec"][0]) > DRAIN_TIMEOUT


def test_it_starts_the_command_that_serves_and_no_shell() -> None:
    (command,) = directives()["ExecStart"]
    assert re.fullmatch(r"/\S+/rekeyd serve -c /etc/rekeyd/rekeyd\.yaml", command)


def test_every_directive_is_there_once_but_for_the_filter() -> None:
    assert [key for key, values in directives().items() if len(values) > 1] == ["SystemCallFilter"]


def test_systemd_has_nothing_to_say_against_it(analyze: str, tmp_path: Path) -> None:
    unit = tmp_path / "rekeyd.service"
    unit.write_text(re.sub(r"(?m)^(Exec\w+)=/\S+", r"\1=/bin/true", UNIT.read_text()))
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_its_exposure_is_as_small_as_a_network_service_can_have_it(analyze: str) -> None:
    done = subprocess.run(
        [analyze, "security", "--offline=true", str(UNIT)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    score = re.search(r"Overall exposure level for rekeyd\.service: ([0-9.]+)", done.stdout)
    if score is None:
        pytest.skip(f"this systemd-analyze can't judge a file: {done.stderr.strip()}")
    assert float(score.group(1)) <= WORST_EXPOSURE
