"""A snapshot as a value: its digest, and its silence."""

from dataclasses import replace
from pathlib import Path

from rekeyd.reload.files import File
from rekeyd.reload.snapshot import Snapshot
from rekeyd.settings import Parsed, Settings


def snapshot(**contents: bytes) -> Snapshot:
    paths = {key: Path("/") / key for key in contents}
    return Snapshot(Parsed(Settings()), paths, {key: File(data) for key, data in contents.items()})


def test_the_digest_is_over_keys_and_bytes_and_not_their_order() -> None:
    one = snapshot(a=b"1", b=b"2")

    assert one.digest == snapshot(b=b"2", a=b"1").digest
    assert (
        len(
            {
                each.digest
                for each in (one, snapshot(a=b"12"), snapshot(a=b"1", b=b"3"), snapshot(a=b"1", c=b"2"))
            }
        )
        == 4
    )


def test_who_may_read_a_file_is_no_part_of_the_digest() -> None:
    one = snapshot(a=b"1")

    assert replace(one, contents={"a": File(b"1", 0o644)}).digest == one.digest


def test_no_content_is_in_the_repr() -> None:
    assert "s3cret" not in repr(snapshot(a=b"s3cret"))
    assert "s3cret" not in repr(File(b"s3cret"))
