"""The key file on the disk as the commands see it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from rekeyd.access.pepper import id_of
from rekeyd.commands.key_edits import AddKey, Edit
from rekeyd.commands.key_store import Store
from rekeyd.errors import SettingsError
from rekeyd.reload.keyring import Keys
from rekeyd.system.replacing import ReplaceError
from support.generations import document
from support.key_files import entry, write, yaml_of

PEPPER = b"made-up-pepper-of-32-bytes-long!"


def settings_file(folder: Path, **access: Any) -> Path:
    path = folder / "rekeyd.yaml"
    path.write_text(json.dumps(document(access=access, admin={"socket": "admin.sock"})))
    return path


def store_in(folder: Path, **access: Any) -> Store:
    return Store.named_in(settings_file(folder, **{"keys_file": "keys.yaml", **access}), {}, None)


def adding(key_id: str) -> Any:
    def change(_keys: Keys) -> Iterable[Edit]:
        return [AddKey(entry(key_id))]

    return change


def refusal(store: Store) -> str:
    with pytest.raises(SettingsError) as caught:
        store.read()
    return str(caught.value)


def test_it_is_found_through_the_settings_and_the_environment(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert (store.path, store.socket) == (tmp_path / "keys.yaml", tmp_path / "admin.sock")
    file = settings_file(tmp_path)
    environ = {"REKEYD__ACCESS__KEYS_FILE": "/etc/k.json"}
    assert Store.named_in(file, environ, Path("/run/x")).path == Path("/etc/k.json")
    assert Store.named_in(file, environ, Path("/run/x")).socket == Path("/run/x")
    with pytest.raises(SettingsError, match=r"access.keys_file: is not set, so there is no key file"):
        Store.named_in(file, {}, None)
    with pytest.raises(SettingsError, match=r"none.yaml does not exist"):
        Store.named_in(tmp_path / "none.yaml", {}, None)


def test_a_missing_file_is_made_where_that_is_wanted_and_else_an_error(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert "keys.yaml does not exist" in refusal(store)
    with pytest.raises(SettingsError, match="does not exist"):
        store.change(adding("a"))
    store.change(adding("a"), create=True)
    assert (tmp_path / "keys.yaml").stat().st_mode & 0o777 == 0o640
    assert {c.id for c in store.read().ring if c.named} == {"a"}
    other = store_in(tmp_path, keys_file="keys.json")
    other.change(adding("b"), create=True)
    assert json.loads((tmp_path / "keys.json").read_bytes()) == {"keys": [entry("b")]}


def test_what_is_there_must_be_sound_before_it_is_changed(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_bytes(b"keys: []\n")
    with pytest.raises(SettingsError, match="cut off"):
        store_in(tmp_path).change(adding("a"), create=True)
    assert file.read_bytes() == b"keys: []\n"


def test_what_the_daemon_would_refuse_is_never_written(tmp_path: Path) -> None:
    write(tmp_path / "keys.yaml", entry("a"))
    with pytest.raises(SettingsError, match=r"keys\[2\].right: is no right"):
        store_in(tmp_path).change(lambda _: [AddKey(entry("b", "everything"))])
    assert (tmp_path / "keys.yaml").read_bytes() == yaml_of(entry("a"))


def test_the_pepper_must_be_the_one_that_the_file_names(tmp_path: Path) -> None:
    write(tmp_path / "keys.yaml", entry("a"), pepper=id_of(PEPPER))
    pepper = tmp_path / "pepper"
    assert "pepper does not exist" in refusal(store_in(tmp_path, pepper_file="pepper"))
    pepper.write_bytes(PEPPER)
    assert store_in(tmp_path, pepper_file="pepper").read().pepper == PEPPER
    pepper.write_bytes(PEPPER[::-1])
    told = refusal(store_in(tmp_path, pepper_file="pepper"))
    assert "access.pepper_file: holds the pepper" in told
    assert PEPPER.decode()[:8] not in told
    secrets = [{"digest": f"hmac-sha256:{'0' * 64}"}]
    write(tmp_path / "keys.yaml", {**entry("a"), "secrets": secrets}, pepper=id_of(PEPPER))
    assert "access.pepper_file: is not set" in refusal(store_in(tmp_path))


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReplaceError, match="No such file or directory"):
        store_in(tmp_path, keys_file="none/keys.yaml").change(adding("a"), create=True)


def test_without_a_daemon_it_is_said_when_a_change_takes_effect(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    good, [line] = store.reload()
    assert good
    assert "no daemon answers there" in line
    assert line.endswith("if a daemon runs it looks by itself, else it takes effect at its next start")
    assert store.status() == {}
    unasked = Store(store.parsed, store.path, None)
    assert unasked.reload()[1][0].startswith("admin.socket is null, so no daemon was asked")
    assert unasked.status() == {}
