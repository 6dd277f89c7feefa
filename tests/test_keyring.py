"""Keys out of the bytes of a snapshot: all of them in one ring, or every reason why not."""

from pathlib import Path

import pytest

from rekeyd.access.keys import peppered_digest_of
from rekeyd.access.pepper import id_of
from rekeyd.errors import SettingsError
from rekeyd.reload.files import File
from rekeyd.reload.keyring import identity_of, keys_of, static_keys_of
from rekeyd.settings import Settings
from support.generations import API_KEY, settings_of
from support.key_files import entry, secret_of, yaml_of

PEPPER = b"made-up-pepper-of-32-bytes-long!"


def settings(**service: object) -> Settings:
    return settings_of(service=service, access={"keys_file": "keys.yaml", "pepper_file": "pepper"})


def test_static_keys_and_those_of_the_file_are_in_one_ring() -> None:
    keys = keys_of(settings(), File(yaml_of(entry("a", "write"))), None)
    assert [credential.id for credential in keys.ring] == ["api_key", "a"]
    assert keys.ring.find(API_KEY.encode()) is not None
    found = keys.ring.find(secret_of("a").encode())
    assert found is not None
    assert (found.id, found.named) == ("a", True)
    assert not [c for c in static_keys_of(settings()).ring if c.named]


def test_with_a_pepper_both_kinds_of_digests_are_found() -> None:
    digest = f"hmac-sha256:{peppered_digest_of(secret_of('b').encode(), PEPPER).hex()}"
    source = yaml_of(entry("a"), {**entry("b"), "secrets": [{"digest": digest}]}, pepper=id_of(PEPPER))
    keys = keys_of(settings(), File(source), File(PEPPER + b"\n"))
    assert keys.ring.pepper_id == id_of(PEPPER)
    assert [found and found.id for found in (keys.ring.find(secret_of(k).encode()) for k in "ab")] == [
        "a",
        "b",
    ]
    assert PEPPER.decode() not in repr(keys)


def test_what_is_wrong_with_either_file_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        keys_of(settings(), File(b"keys: []\n"), File(b"short"))
    assert [(p.file, p.rule) for p in caught.value.problems] == [
        (str(Path("/etc/keys.yaml")), "keys_torn"),
        (str(Path("/etc/pepper")), "pepper_short"),
    ]


def test_the_same_bytes_are_the_same_keys_and_any_other_are_not() -> None:
    file, pepper = File(yaml_of(entry("a"))), File(PEPPER)
    same = identity_of(settings(), file, pepper)
    assert identity_of(settings(), File(yaml_of(entry("a")), 0o644), pepper) == same
    others = [
        identity_of(settings(), File(yaml_of(entry("b"))), pepper),
        identity_of(settings(), file, None),
        identity_of(settings(), None, pepper),
        identity_of(settings(), file, File(PEPPER + b"!")),
        identity_of(settings(api_key="another" * 5), file, pepper),
        identity_of(settings(read_only_api_key=API_KEY), file, pepper),
    ]
    assert len({same, *others}) == 7
    assert API_KEY not in repr(same)
