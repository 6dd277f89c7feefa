"""A snapshot that is sealed is taken out the same, or not at all."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekeyd.reload import sealed
from rekeyd.reload.disk import Disk
from rekeyd.reload.files import File
from rekeyd.reload.folder import Contents, Listing, sorted_out
from rekeyd.reload.interpretation import Interpreter
from rekeyd.reload.named import KEY_FILE, pairs_named_by, paths_named_by
from rekeyd.reload.sealed import Sealed, SealError, pack, seal, unpack, unseal
from rekeyd.reload.snapshot import Snapshot
from rekeyd.settings import parse
from support.generations import API_KEY, Site, document

OTHER_KEY = "a-made-up-key-of-the-environment"
ETC = Path("/etc/rekeyd.yaml")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@contextmanager
def sealed_away(snapshot: Snapshot, environ: Mapping[str, str] | None = None) -> Iterator[int]:
    descriptor = seal(snapshot, environ or {}, number=7)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def snapshot_of(
    sections: Mapping[str, Any], named: Mapping[str, File], listing: Listing | None = None, mode: int = 0o640
) -> Snapshot:
    """What the disk would have given, had the files been these; others that are named hold nothing."""
    source = json.dumps(document(**sections)).encode()
    parsed = parse(source, file=ETC, environ={}, cwd=Path("/"))
    folder = sorted_out(Path("/etc/certs"), listing) if listing else None
    paths = paths_named_by(parsed.settings, folder)
    contents = {"": File(source, mode), **{key: named.get(key, File(b"")) for key in paths}}
    return Snapshot(parsed, paths, contents, pairs_named_by(parsed.settings, folder), folder)


def test_all_that_was_read_comes_back_the_same(site: Site) -> None:
    folder = site.folder / "more"
    site.authority.issue("a.example").write(folder / "a")
    site.authority.issue("b.example").write(folder, cert="b.crt", key="b.key")
    site.key.chmod(0o440)
    site.configure(
        tls={"certificate_dir": "more", "certificates": [{"cert": "tls.crt", "key": "tls.key"}]},
        storage={"storage_path": "/x"},
    )
    disk = Disk(site.file, {"REKEYD__SERVICE__ALT_API_KEY": OTHER_KEY, "HOME": "/root"})
    candidate = disk.load()
    snapshot = disk.take_snapshot()
    assert snapshot is not None

    with sealed_away(snapshot, disk.environ) as descriptor:
        back = unseal(descriptor, running=None)

    assert back.number == 7
    assert back.snapshot == snapshot
    assert Interpreter().candidate(back.snapshot).digest == candidate.digest
    assert back.snapshot.contents["tls.key"].mode == 0o440


def test_a_secret_that_is_a_credential_comes_back_with_what_was_read(site: Site, tmp_path: Path) -> None:
    handed = tmp_path / "handed"
    handed.mkdir()
    (handed / "key").write_text(f"{API_KEY}\n")
    site.configure(service={"api_key": "credential:key"})
    disk = Disk(site.file, {"CREDENTIALS_DIRECTORY": str(handed)})
    disk.load()
    snapshot = disk.take_snapshot()
    assert snapshot is not None
    with sealed_away(snapshot, disk.environ) as descriptor:
        (handed / "key").unlink()
        back = unseal(descriptor, running=None)
    assert back.snapshot == snapshot
    told = back.snapshot.parsed.settings.service.api_key
    assert told is not None
    assert told.get_secret_value() == API_KEY


def test_what_a_reload_can_not_change_is_that_of_the_process_that_takes_it_out(site: Site) -> None:
    running = site.disk.load().settings
    site.configure(service={"http_port": 1234, "max_request_size_mb": 5})

    with sealed_away(site.disk.snapshot()) as descriptor:
        parsed = unseal(descriptor, running=running).snapshot.parsed

    assert (parsed.settings.service.http_port, parsed.settings.service.max_request_size_mb) == (0, 5)
    assert parsed.restart_needed == ("service.http_port",)


def test_what_is_switched_off_meanwhile_is_left_out(site: Site) -> None:
    sealed_on = site.disk.snapshot()
    site.configure(service={"enable_tls": False})
    running = site.disk.load().settings

    with sealed_away(sealed_on) as descriptor:
        back = unseal(descriptor, running=running).snapshot

    assert (list(back.contents), back.paths, back.pairs) == ([""], {}, ())


def test_what_is_switched_on_meanwhile_and_was_not_sealed_is_missed(site: Site) -> None:
    running = site.disk.load().settings
    site.configure(service={"enable_tls": False})

    with (
        sealed_away(site.disk.snapshot()) as descriptor,
        pytest.raises(SealError, match=r"what the settings name now \(tls.cert, tls.key\)"),
    ):
        unseal(descriptor, running=running)


def test_settings_that_do_not_go_together_with_those_that_run_are_refused(site: Site) -> None:
    running = site.disk.load().settings
    site.configure(service={"api_key": None, "insecure": True})
    snapshot = site.disk.snapshot()

    with sealed_away(snapshot) as descriptor, pytest.raises(SealError, match=r"of no use now: .*insecure"):
        unseal(descriptor, running=running)


# Names are bytes to the operating system, and need be no text.


def test_a_name_that_is_no_text_survives(site: Site) -> None:
    odd = os.fsdecode(b"caf\xe9")
    site.authority.issue("a.example").write(site.folder / "more", cert=f"{odd}.crt", key=f"{odd}.key")
    site.configure(tls={"certificate_dir": "more"})
    snapshot = site.disk.snapshot()

    with sealed_away(snapshot) as descriptor:
        back = unseal(descriptor, running=None).snapshot

    assert back == snapshot
    assert f"tls.certificate_dir[{odd}.key]" in back.contents


files = st.builds(File, st.binary(max_size=200), st.integers(0, 0o7777))
names = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=8).filter(
    lambda name: not name.startswith(".")
)
listings = st.builds(
    Listing,
    st.lists(names.map("{}.crt".format) | names.map("{}.key".format), max_size=5).map(tuple),
    st.dictionaries(names, st.sampled_from([("tls.crt", "tls.key"), ("tls.crt",), ("x",), ()]), max_size=3),
)


@given(
    named=st.fixed_dictionaries(
        dict.fromkeys(("tls.cert", "tls.key", "tls.ca_cert", KEY_FILE, "access.policy"), files)
    ),
    listing=st.none() | listings,
    number=st.integers(1, 1 << 40),
    at=st.floats(0, 1e10),
    mode=st.integers(0, 0o7777),
)
@settings(deadline=None)
def test_any_snapshot_survives(
    named: dict[str, File], listing: Listing | None, number: int, at: float, mode: int
) -> None:
    sections: dict[str, Any] = {
        "tls": {"ca_cert": "ca.pem", "certificate_dir": "certs" if listing else None},
        "access": {"keys_file": "keys.yaml", "policy": "./policy.yaml"},
        "service": {"verify_https_client_certificate": True},
    }
    kept = Sealed(number, at, snapshot_of(sections, named, listing, mode))
    assert unpack(b"".join(pack(kept, {}, Path("/")))) == kept


# What is not believed.


@pytest.fixture
def packed(site: Site) -> bytes:
    return b"".join(pack(Sealed(1, 2.0, site.disk.snapshot()), {}, Path("/")))


def refusal(data: bytes) -> str:
    with pytest.raises(SealError) as refused:
        unpack(data)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    return str(refused.value)


def test_any_byte_that_is_changed_or_missing_is_noticed(packed: bytes) -> None:
    @given(at=st.integers(0, len(packed) - 1), flip=st.integers(1, 255))
    @settings(deadline=None)
    def spoiled(at: int, flip: int) -> None:
        assert refusal(packed[:at] + bytes([packed[at] ^ flip]) + packed[at + 1 :])
        assert refusal(packed[:at])

    spoiled()
    assert refusal(packed + b"\0") == "it is damaged"


@given(data=st.binary(max_size=300))
def test_no_bytes_are_too_strange_to_be_refused(data: bytes) -> None:
    assert refusal(data)


def test_another_version_is_told_from_what_is_none(packed: bytes) -> None:
    assert refusal(packed.replace(b"generation 1\n", b"generation 2\n", 1)) == (
        "it was sealed by another version of rekeyd"
    )
    assert refusal(b"something else\n") == "it is no generation of rekeyd's"


def rewritten(change: Callable[[dict[str, Any]], object], packed: bytes) -> bytes:
    """With another header, and a digest that is right."""
    title, _, rest = packed.partition(b"\n")
    body = rest[32:]
    length = int.from_bytes(body[:8])
    header = json.loads(body[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    body = len(text).to_bytes(8) + text + body[8 + length :]
    return title + b"\n" + hashlib.sha256(body).digest() + body


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("number"),
        lambda header: header.pop("contents"),
        lambda header: header.update(environ=[1]),
        lambda header: header.update(contents=[["", "x"]]),
        lambda header: header.update(contents=header["contents"][1:]),
        lambda header: header.update(folder={"path": 1}),
    ],
)
def test_a_header_without_sense_is_refused(change: Callable[[dict[str, Any]], object], packed: bytes) -> None:
    assert unpack(rewritten(dict.copy, packed)) == unpack(packed)
    assert refusal(rewritten(change, packed)) == "its header makes no sense"


def test_settings_that_this_version_does_not_know_are_refused_without_their_values(site: Site) -> None:
    environ = {"REKEYD__SERVICE__API_KEYS": OTHER_KEY, "REKEYD__SERVICE__HTTP_PORT": OTHER_KEY}
    kept = Sealed(1, 2.0, site.disk.snapshot())

    told = refusal(b"".join(pack(kept, environ, Path("/"))))

    assert "REKEYD__SERVICE__API_KEYS: is not a setting" in told
    assert OTHER_KEY not in told


def test_what_would_not_be_taken_out_again_is_not_sealed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "LARGEST", 100)
    with pytest.raises(SealError, match="larger than"):
        seal(site.disk.snapshot(), {}, number=1)


def test_only_what_bears_on_settings_is_sealed_of_the_environment(site: Site) -> None:
    environ = {
        "rekeyd__service__api_key": OTHER_KEY,
        "PATH": "/a-made-up-path",
        "CREDENTIALS_DIRECTORY": "/c",
    }
    with sealed_away(site.disk.snapshot(), environ) as descriptor:
        data = os.pread(descriptor, 1 << 20, 0)
    assert OTHER_KEY.encode() in data
    assert b'"CREDENTIALS_DIRECTORY": "/c"' in data
    assert b"a-made-up-path" not in data


def test_no_secret_is_in_a_repr(site: Site) -> None:
    shown = repr(Sealed(1, 2.0, site.disk.snapshot()))
    assert API_KEY not in shown
    assert "PRIVATE KEY" not in shown


def test_the_contents_of_a_folder_are_those_that_were_listed() -> None:
    folder = sealed._folder_of(sealed._folder_fields(sorted_out(Path("/certs"), Listing(("a.crt",), {}))))
    assert isinstance(folder, Contents)
    assert [half.name for half in folder.halves] == ["a.crt"]
