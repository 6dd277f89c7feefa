"""Memory that is written once: nobody changes it, and what is no such memory is not believed."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.system.sealed_memory import SealError, sealed, unsealed

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = sealed("test", [b"one", b"", b"two"])
    yield descriptor
    os.close(descriptor)


def test_nobody_can_change_it(memory: int) -> None:
    assert fcntl.fcntl(memory, fcntl.F_GET_SEALS) & SEALS == SEALS
    for change in (
        lambda: os.pwrite(memory, b"x", 0),
        lambda: os.truncate(memory, 0),
        lambda: os.truncate(memory, 100),
        lambda: fcntl.fcntl(memory, fcntl.F_ADD_SEALS, 0),
    ):
        with pytest.raises(PermissionError):
            change()


def test_it_is_not_passed_on_to_a_child(memory: int) -> None:
    assert not os.get_inheritable(memory)


def test_reading_moves_nothing_that_others_share(memory: int) -> None:
    os.lseek(memory, 2, os.SEEK_SET)
    assert unsealed(memory, 6) == unsealed(memory, 6) == b"onetwo"
    assert os.lseek(memory, 0, os.SEEK_CUR) == 2


@given(st.lists(st.binary(max_size=100_000), max_size=4))
def test_what_is_taken_out_is_what_was_put_in(pieces: list[bytes]) -> None:
    descriptor = sealed("test", pieces)
    try:
        assert unsealed(descriptor, 1 << 20) == b"".join(pieces)
    finally:
        os.close(descriptor)


def test_what_is_too_large_is_not_read(memory: int) -> None:
    with pytest.raises(SealError, match="larger than 0 MiB"):
        unsealed(memory, 5)


def half_sealed() -> int:
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW)
    return descriptor


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (half_sealed, "not sealed"),
        (lambda: os.memfd_create("test", os.MFD_CLOEXEC), "not sealed"),
        (lambda: os.open(Path(__file__), os.O_RDONLY), "sealed"),
        (lambda: os.pipe()[0], "no sealed memory"),
    ],
)
def test_what_is_no_sealed_memory_is_refused(make: Callable[[], int], complaint: str) -> None:
    descriptor = make()
    try:
        with pytest.raises(SealError, match=complaint):
            unsealed(descriptor, 1 << 20)
    finally:
        os.close(descriptor)


def test_what_could_not_be_written_leaves_nothing_behind() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"one"
        raise MemoryError

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count is all that is wanted
    with pytest.raises(MemoryError):
        sealed("test", pieces())
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - as above
