"""Key files to write, and what is said of bad ones."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rekeyd.access.key_file import KeyFile, parse_key_file
from rekeyd.access.key_form import SECRET_BYTES, make_key
from rekeyd.errors import Problem, SettingsError

FILE = "/etc/rekeyd/keys.yaml"


def secret_of(key_id: str, number: int = 0) -> str:
    """A secret of the right form, the same for the same arguments."""
    seed = hashlib.sha256(f"{key_id} {number}".encode()).digest()
    return make_key(key_id, seed[:SECRET_BYTES])


def digest_of(key_id: str, number: int = 0) -> str:
    """Of `secret_of`, as a key file has it."""
    return f"sha256:{hashlib.sha256(secret_of(key_id, number).encode()).hexdigest()}"


def entry(key_id: str, right: str = "read", **more: Any) -> dict[str, Any]:
    """One key with one secret."""
    return {"id": key_id, "right": right, "secrets": [{"digest": digest_of(key_id)}], **more}


def yaml_of(*entries: Mapping[str, Any], **more: Any) -> bytes:
    """JSON is YAML."""
    return f"{json.dumps({**more, 'keys': list(entries)}, indent=1)}\n...\n".encode()


def write(path: Path, *entries: Mapping[str, Any], **more: Any) -> Path:
    path.write_bytes(yaml_of(*entries, **more))
    path.chmod(0o600)
    return path


def parsed(source: bytes | str, file: str = FILE) -> KeyFile:
    return parse_key_file(source.encode() if isinstance(source, str) else source, file=file)


def problems_of(source: bytes | str, file: str = FILE) -> list[Problem]:
    with pytest.raises(SettingsError) as caught:
        parsed(source, file)
    return list(caught.value.problems)
