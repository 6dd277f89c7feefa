"""One good and one bad file per rule, in `tests/settings`; each says at its end what must be said of it."""

from pathlib import Path

import pytest

from rekeyd.errors import Problem, SettingsError
from rekeyd.settings import parse

FOLDER = Path(__file__).parent / "settings"


def examples(ending: str) -> list[Path]:
    found = sorted(FOLDER.glob(f"*.{ending}.yaml"))
    assert found
    return found


def announced(path: Path, mark: str) -> list[str]:
    prefix = f"# {mark}: "
    lines = path.read_text().splitlines()
    return [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]


def said(problems: tuple[Problem, ...], path: Path) -> list[str]:
    return [str(problem).removeprefix(f"{path}: ") for problem in problems]


@pytest.mark.parametrize("path", examples("bad"), ids=lambda path: path.name)
def test_a_bad_file_gives_exactly_its_problems(path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(path.read_bytes(), file=path, environ={}, cwd=Path("/"))
    assert said(caught.value.problems, path) == announced(path, "expect")
    assert announced(path, "expect")


@pytest.mark.parametrize("path", examples("bad"), ids=lambda path: path.name)
def test_a_bad_file_is_not_quoted(path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(path.read_bytes(), file=path, environ={}, cwd=Path("/"))
    assert "sw0rd" not in str(caught.value).replace(str(path), "")


@pytest.mark.parametrize("path", examples("good"), ids=lambda path: path.name)
def test_a_good_file_gives_exactly_its_warnings(path: Path) -> None:
    parsed = parse(path.read_bytes(), file=path, environ={}, cwd=Path("/"))
    assert said(parsed.warnings, path) == announced(path, "warns")
