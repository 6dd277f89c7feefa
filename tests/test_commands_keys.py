"""The commands on a real file: what they print, what they write, and what they refuse."""

import asyncio
import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rekeyd.access.key_form import is_made_here
from rekeyd.access.keys import peppered_digest_of
from rekeyd.access.pepper import id_of
from rekeyd.commands.key_list import NOTHING_KNOWN, Evidence
from rekeyd.commands.key_store import Store
from rekeyd.commands.key_wish import Wish
from rekeyd.commands.keys import Told, guarded, list_keys, new, remove, retire, rotate, verify
from rekeyd.errors import SettingsError
from support.daemon import SOURCE_ROOT
from support.key_files import entry, parsed, secret_of, write
from test_key_store import settings_file, store_in

NOW = dt.datetime(2027, 1, 1, 12, 0, 0, 500_000, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
DAY = 24 * HOUR
STRONG = b"0123456789abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_in(tmp_path)


def made(store: Store, key_id: str = "a", given: bytes | None = None, **wish: Any) -> bytes:
    """A new key's secret."""
    told = new(store, Wish(key_id, **{"right": "read", **wish}), NOW, given)
    assert told.status == 0
    return told.out[0].encode() if given is None else given


def verdict(store: Store, secret: bytes, at: dt.datetime = NOW) -> str:
    told = verify(store, at, secret)
    assert (told.status == 0) == told.out[-1].endswith(" good")
    return told.out[-1].split(maxsplit=1)[-1]


def refusal(command: Any) -> str:
    told = guarded(command)
    assert (told.status, told.out) == (1, ())
    [line] = told.err
    return line


def test_a_new_key_is_told_once_and_kept_as_a_digest(store: Store) -> None:
    told = new(store, Wish("ingest", "write", note="nightly", expires="90d", rate=50.0), NOW)
    [secret] = told.out
    assert is_made_here(secret.encode())
    assert secret.startswith("rk_ingest_")
    assert secret not in store.path.read_text() + "".join(told.err) + repr(told)
    [credential] = parsed(store.path.read_bytes()).credentials
    assert (credential.id, str(credential.right), credential.limits.rate) == ("ingest", "write", 50)
    assert credential.not_before == int(NOW.timestamp())
    assert credential.expires == int((NOW + 90 * DAY).timestamp())
    assert "rate: 50\n" in store.path.read_text()
    assert verify(store, NOW, secret.encode()).out == (
        "key        ingest",
        "may        write 50/s",
        "not before 2027-01-01T12:00:00Z",
        "expires    2027-04-01T12:00:00Z",
        "verdict    good",
    )


def test_no_two_keys_are_alike(store: Store) -> None:
    assert len({made(store, f"k{n}") for n in range(5)}) == 5


def test_limits_are_written_as_they_were_asked_for(store: Store) -> None:
    wish = Wish(
        "a", None, ["books=read", "a=b=points"], ["/collections"], ["10.0.0.0/8"], not_before="2027-06-01"
    )
    secret = new(store, wish, NOW).out[0].encode()
    [credential] = parsed(store.path.read_bytes()).credentials
    assert dict(credential.limits.collections or ()).keys() == {"books", "a=b"}
    assert verdict(store, secret) == "not valid yet"


def test_under_a_pepper_the_digest_is_an_hmac_and_the_file_names_it(tmp_path: Path) -> None:
    pepper = b"made-up-pepper-of-32-bytes-long!"
    (tmp_path / "pepper").write_bytes(pepper + b"\n")
    store = store_in(tmp_path, pepper_file="pepper")
    write(store.path, entry("old"))
    secret = made(store)
    found = parsed(store.path.read_bytes())
    assert found.pepper == id_of(pepper)
    assert found.credentials[-1].digest == peppered_digest_of(secret, pepper)
    assert verdict(store, secret) == verdict(store, secret_of("old").encode()) == "good"
    made(store, "b")
    assert store.path.read_text().count('pepper"') == 1


def test_a_secret_of_other_making_must_be_strong_and_of_nobody_else(store: Store) -> None:
    assert verdict(store, made(store, "a", STRONG)) == "good"
    for weak, why in {
        b"": "is shorter than 32 characters",
        b"hunter2": "is shorter than 32 characters",
        b"correct horse battery staple correct horse": "looks like words that a person chose",
        b"a" * 64: "repeats itself",
        b"x y" * 2000: "no header can carry",
        " ü".encode() * 20: "no header can carry",
        STRONG[:-1] + b"\n0": "no header can carry",
    }.items():
        said = refusal(lambda weak=weak: new(store, Wish("b", "read"), NOW, weak))
        assert why in said
        assert not weak or weak.decode() not in said
    assert refusal(lambda: new(store, Wish("b", "read"), NOW, STRONG)) == "that is the secret of a"


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        (Wish("a", "read"), "there is a key a already: `rekeyd keys rotate a` gives it a new secret"),
        (Wish("a_b", "read"), "an id is letters, digits, dots and dashes"),
        (Wish("b"), "give either --right or --collection"),
        (Wish("b", "read", ["x=read"]), "give either --right or --collection"),
        (Wish("b", None, ["x"]), "write --collection NAME=read"),
        (Wish("b", None, ["x=manage"]), "collections allows what can't be had for one collection"),
        (Wish("b", "read", paths=["x"]), "paths must be a list of paths"),
        (Wish("b", "read", networks=["10.1.2.3/8"]), "networks must be a list of networks"),
        (Wish("b", "read", rate=-1), "rate must be a number of requests per second"),
        (Wish("b", "read", rate=float("nan")), "rate must be a number of requests per second"),
        (
            Wish("b", "read", expires="tomorrow"),
            "--expires must be a date, or a time with its zone; or a duration",
        ),
        (Wish("b", "read", expires="2027-02-01T00:00"), "--expires has no time zone"),
        (Wish("b", "read", expires="2026-01-01"), "it would expire before it is valid"),
        (Wish("b", "read", expires="1h", not_before="2h"), "it would expire before it is valid"),
    ],
)
def test_what_can_not_be_is_refused_with_the_reason_and_nothing_is_written(
    store: Store, wish: Wish, why: str
) -> None:
    write(store.path, entry("a"))
    before = store.path.read_bytes()
    assert why in refusal(lambda: new(store, wish, NOW))
    assert store.path.read_bytes() == before


def test_rotating_gives_a_second_secret_and_the_first_one_ends_after_the_overlap(store: Store) -> None:
    first = made(store)
    told = rotate(store, Wish("a", overlap="2h", expires="30d"), NOW)
    second = told.out[0].encode()
    assert "older ones end 2027-01-01T14:00:00Z" in told.err[0]
    assert verdict(store, first) == verdict(store, second) == "good"
    assert verdict(store, first, NOW + 2 * HOUR) == "expired"
    assert verdict(store, second, NOW + 2 * HOUR) == "good"
    assert verdict(store, second, NOW + 30 * DAY) == "expired"


def test_no_secret_lives_longer_because_of_a_rotation(store: Store) -> None:
    first = made(store, expires="1h")
    rotate(store, Wish("a", overlap="7d"), NOW)
    assert verdict(store, first, NOW + HOUR) == "expired"


def test_a_retired_key_ends_at_the_moment_and_never_later_than_it_would_have(store: Store) -> None:
    one, two, three = (made(store, key_id) for key_id in ("a", "b", "c"))
    future = made(store, "d", not_before="2028-01-01")
    retire(store, Wish("a"), NOW)
    assert verdict(store, one) == "expired"
    retire(store, Wish("b", at="2h"), NOW)
    assert verdict(store, two) == "good"
    assert verdict(store, two, NOW + 2 * HOUR) == "expired"
    retire(store, Wish("c", at="2027-01-01T13:00:00+00:00"), NOW)
    retire(store, Wish("c", at="2027-01-02"), NOW)
    assert verdict(store, three, NOW + HOUR) == "expired"
    retire(store, Wish("d"), NOW)
    assert verdict(store, future) == "not valid yet"
    assert verdict(store, future, NOW + 365 * DAY) == "expired"
    assert "--at has no time zone" in refusal(lambda: retire(store, Wish("a", at="2027-01-01T13:00"), NOW))


def test_only_what_is_known_to_be_unused_is_removed_without_force(store: Store) -> None:
    made(store)
    known = {ago: Evidence({"a": NOW - ago * DAY}) for ago in (6, 7)}
    assert "is not known" in refusal(lambda: remove(store, Wish("a"), NOW, NOTHING_KNOWN))
    assert "unused for 6d only" in refusal(lambda: remove(store, Wish("a"), NOW, known[6]))
    assert remove(store, Wish("a"), NOW, known[7]).status == 0
    made(store, "b")
    assert remove(store, Wish("b", force=True), NOW, NOTHING_KNOWN).status == 0
    made(store, "c", expires="1h")
    assert remove(store, Wish("c"), NOW + HOUR, NOTHING_KNOWN).status == 0
    assert parsed(store.path.read_bytes()).credentials == ()


def test_a_key_that_is_not_there_is_said_to_be_so(store: Store) -> None:
    write(store.path, entry("a"))
    for command in (rotate, retire):
        for name in ("b", "api_key", ""):
            assert "there is no key of that name" in refusal(lambda c=command, n=name: c(store, Wish(n), NOW))
    assert "there is no key" in refusal(lambda: remove(store, Wish("b", force=True), NOW, NOTHING_KNOWN))


def test_verify_knows_static_keys_and_weak_secrets_and_nobody(store: Store) -> None:
    write(store.path, {"id": "weak", "right": "read", "secrets": [{"digest": f"sha256:{WEAK_DIGEST}"}]})
    assert verify(store, NOW, b"a-made-up-key-that-may-do-everything").out[:2] == (
        "key        api_key",
        "may        manage",
    )
    assert verdict(store, b"hunter2") == "refused, because the secret is shorter than 32 characters"
    assert verify(store, NOW, b"x") == verify(store, NOW, b"") == Told(1, ("no key has this secret",))


WEAK_DIGEST = "f52fbd32b2b3b86ff88ef6c490628285f482af15ddcb29541f94bcf526a3f6c7"


def test_a_list_is_for_a_person_or_a_program(store: Store) -> None:
    write(store.path)
    assert list_keys(store, NOW, NOTHING_KNOWN, as_json=False).out == ("no keys",)
    write(store.path, entry("a", note="n"), entry("b"))
    head, first, second = list_keys(store, NOW, NOTHING_KNOWN, as_json=False).out
    assert head.split()[:2] == ["KEY", "MAY"]
    assert (first.split()[0], second.split()[0]) == ("a", "b")
    [told] = list_keys(store, NOW, NOTHING_KNOWN, as_json=True).out
    assert [key["id"] for key in json.loads(told)] == ["a", "b"]
    assert "digest" not in told


def test_a_broken_file_is_for_the_caller_to_tell(store: Store) -> None:
    store.path.write_bytes(b"keys: []")
    with pytest.raises(SettingsError):
        guarded(lambda: new(store, Wish("a", "read"), NOW))


async def test_ten_at_once_lose_no_edit(tmp_path: Path) -> None:
    config = settings_file(tmp_path, keys_file="keys.yaml")
    write(tmp_path / "keys.yaml", entry("old"))
    environ = {**os.environ, "PYTHONPATH": str(SOURCE_ROOT)}

    async def one(number: int) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rekeyd", "keys", "new", f"k{number}", "--right", "read", "-c", config),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err
        return out.strip()

    secrets = await asyncio.gather(*(one(number) for number in range(10)))
    ring = store_in(tmp_path).read().ring
    assert sorted(found.id for secret in secrets if (found := ring.find(secret))) == [
        f"k{n}" for n in range(10)
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.yaml", "rekeyd.yaml"]
