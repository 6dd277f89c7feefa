import json
import os
from pathlib import Path
from typing import Any

import pytest

from rekeyd.errors import SettingsError
from rekeyd.settings import Parsed, parse
from rekeyd.telemetry.audit import check_audit, open_audit
from support.generations import document


def parsed(path: Path | None, **logging: Any) -> Parsed:
    source = json.dumps(document(logging={"audit": None if path is None else str(path), **logging}), indent=1)
    return parse(source.encode(), file=Path("/etc/rekeyd.yaml"), environ={})


def test_without_the_setting_there_is_none() -> None:
    assert open_audit(parsed(None)) is None
    check_audit(parsed(None))


def test_it_holds_as_much_as_the_log_does_and_keeps_what_can_not_be_written(tmp_path: Path) -> None:
    audit = open_audit(parsed(tmp_path / "audit.log", buffer_mb=2))
    assert audit is not None
    assert audit.capacity == 2 << 20
    assert audit._keeps
    audit.write(b"{}\n")
    audit.close()
    assert (tmp_path / "audit.log").read_bytes() == b"{}\n"


@pytest.mark.parametrize("what", ["no folder", "a link", "a folder"])
def test_what_can_not_be_written_is_told_with_file_key_and_fix_by_both(tmp_path: Path, what: str) -> None:
    path = tmp_path / "audit.log"
    if what == "no folder":
        path = tmp_path / "absent" / "audit.log"
    elif what == "a link":
        path.symlink_to(os.devnull)
    else:
        path.mkdir()
    for ask in (open_audit, check_audit):
        with pytest.raises(SettingsError) as caught:
            ask(parsed(path))
        (problem,) = caught.value.problems
        assert (problem.file, problem.key) == ("/etc/rekeyd.yaml", "logging.audit")
        assert str(path) in problem.message
        assert problem.fix
