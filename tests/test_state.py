import stat
from pathlib import Path
from typing import Any

import pytest

from rekeyd.errors import SettingsError
from rekeyd.settings import State
from rekeyd.system.state import check_state, folder_named_by, take


@pytest.mark.parametrize(
    ("written", "environ", "folder"),
    [
        ({}, {}, "/var/lib/rekeyd"),
        ({}, {"STATE_DIRECTORY": "/var/lib/private/rekeyd"}, "/var/lib/private/rekeyd"),
        ({}, {"STATE_DIRECTORY": "/var/lib/one:/var/lib/two"}, "/var/lib/one"),
        ({}, {"STATE_DIRECTORY": ""}, "/var/lib/rekeyd"),
        ({}, {"STATE_DIRECTORY": "relative"}, "/var/lib/rekeyd"),
        ({"directory": "/srv/state"}, {"STATE_DIRECTORY": "/var/lib/one"}, "/srv/state"),
        ({"directory": None}, {"STATE_DIRECTORY": "/var/lib/one"}, None),
    ],
)
def test_what_is_written_goes_before_what_systemd_says_and_that_before_the_default(
    written: dict[str, Any], environ: dict[str, str], folder: str | None
) -> None:
    assert folder_named_by(State(**written), environ) == (None if folder is None else Path(folder))


def test_a_folder_that_is_missing_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = take(tmp_path / "state", make=True)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    folder.leave()


def test_where_it_is_not_to_be_made_it_is_not(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"state: state\.directory: can't be written .*or null\.$"):
        take(tmp_path / "state", make=False)
    assert not (tmp_path / "state").exists()


def test_it_is_one_daemon_s_alone_until_that_leaves(tmp_path: Path) -> None:
    first = take(tmp_path, make=True)
    with pytest.raises(SettingsError, match="another daemon keeps its state there"):
        take(tmp_path, make=True)
    first.leave()
    take(tmp_path, make=True).leave()


def test_a_check_says_what_would_be_in_the_way_makes_nothing_and_minds_no_daemon(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "absent" / "state", tmp_path / "file" / "state"):
        with pytest.raises(SettingsError, match=r"state\.directory: can't be written"):
            check_state(State(directory=path))
        with pytest.raises(SettingsError, match=r"state\.directory: can't be written"):
            take(path, make=True)
    check_state(State(directory=tmp_path / "new"))
    check_state(State(directory=None))
    check_state(State())  # the default may be missing: nobody asked for it
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    folder = take(tmp_path, make=True)
    check_state(State(directory=tmp_path))
    folder.leave()
