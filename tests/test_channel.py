import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekeyd.workers import channel
from rekeyd.workers.channel import INLINE, KEPT, Channel, ChannelEndedError, Message
from support.waiting import eventually


@dataclass
class End:
    """One end, and what it heard."""

    channel: Channel = field(init=False)
    messages: list[Message] = field(default_factory=list)
    ended: int = 0

    def open(self, end: socket.socket) -> "End":
        self.channel = Channel(end, heard=self.messages.append, ended=self._end)
        return self

    def _end(self) -> None:
        self.ended += 1

    async def hear(self, count: int = 1) -> list[Message]:
        await eventually(lambda: len(self.messages) >= count, what=f"{count} messages")
        return self.messages


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield one, other
    one.close()
    other.close()


Pair = tuple[socket.socket, socket.socket]


async def test_what_is_told_comes_in_order(pair: Pair) -> None:
    one, other = (End().open(end) for end in pair)
    for number in range(2000):
        one.channel.tell("count", number)
    heard = await other.hear(2000)
    assert [message.body for message in heard] == list(range(2000))
    assert {message.kind for message in heard} == {"count"}
    one.channel.close()
    await eventually(lambda: other.ended == 1, what="the end")
    assert one.ended == 0, "who ends it knows"


async def test_what_is_asked_is_answered(pair: Pair) -> None:
    one, other = (End().open(end) for end in pair)
    asked = [asyncio.create_task(one.channel.ask("double", n, within=5)) for n in (1, 2)]
    for message in reversed(await other.hear(2)):
        other.channel.answer(message, message.body * 2)
    assert await asyncio.gather(*asked) == [2, 4]
    for end in (one, other):
        end.channel.close()


@pytest.mark.parametrize("size", [INLINE - 100, INLINE + 1, 5_000_000])
async def test_what_is_large_comes_whole(pair: Pair, size: int) -> None:
    one, other = (End().open(end) for end in pair)
    one.channel.tell("large", "x" * size)
    ((message),) = await other.hear()
    assert message.body == "x" * size
    for end in (one, other):
        end.channel.close()


@pytest.mark.parametrize("size", [1, INLINE + 1])
async def test_a_name_that_is_no_utf_8_comes_as_it_is(pair: Pair, size: int) -> None:
    one, other = (End().open(end) for end in pair)
    body = {"file": os.fsdecode(b"/caf\xe9" * size)}
    one.channel.tell("name", body)
    ((message),) = await other.hear()
    assert message.body == body
    for end in (one, other):
        end.channel.close()


async def test_where_there_is_no_memory_no_descriptor_is_left(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = End().open(pair[0])
    before = len(list(Path("/proc/self/fd").iterdir()))

    def none_left(*_: object) -> int:
        raise MemoryError

    monkeypatch.setattr(channel, "sealed", none_left)
    with pytest.raises(MemoryError):
        await one.channel.ask("take", "x" * (INLINE + 1), within=5, descriptor=0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    one.channel.close()


async def test_a_descriptor_for_which_there_is_no_room_is_none(pair: Pair) -> None:
    one, other = (End().open(end) for end in pair)
    asking = asyncio.create_task(one.channel.ask("take", within=5, descriptor=0))
    await asyncio.sleep(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    fillers = [os.dup(0) for _ in range(highest)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        other.channel._take()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)
    ((message),) = other.messages
    assert (message.kind, message.descriptor) == ("take", None)
    other.channel.answer(message, "nothing came along")
    assert await asking == "nothing came along"
    for end in (one, other):
        end.channel.close()


@pytest.mark.parametrize("body", [None, "x" * (INLINE + 1)])
async def test_a_descriptor_comes_along(pair: Pair, body: str | None) -> None:
    one, other = (End().open(end) for end in pair)
    reading, writing = os.pipe()
    asking = asyncio.create_task(one.channel.ask("take", body, within=5, descriptor=reading))
    (message,) = await other.hear()
    os.close(reading)
    os.write(writing, b"through")
    assert message.descriptor is not None
    assert os.read(message.descriptor, 100) == b"through"
    assert os.get_inheritable(message.descriptor) is False
    other.channel.answer(message)
    assert await asking is None
    for descriptor in (writing, message.descriptor):
        os.close(descriptor)
    for end in (one, other):
        end.channel.close()


async def test_who_waits_for_an_answer_when_it_ends_is_told(pair: Pair) -> None:
    one, other = (End().open(end) for end in pair)
    asking = asyncio.create_task(one.channel.ask("anything", within=5))
    await other.hear()
    other.channel.close()
    with pytest.raises(ChannelEndedError):
        await asking
    with pytest.raises(ChannelEndedError):
        await one.channel.ask("too late", within=5)
    assert one.ended == 1


async def test_an_answer_that_does_not_come_is_not_waited_for_longer_than_said(pair: Pair) -> None:
    one, other = (End().open(end) for end in pair)
    with pytest.raises(TimeoutError):
        await one.channel.ask("anything", within=0.01)
    (message,) = await other.hear()
    other.channel.answer(message, "too late")
    one.channel.tell("still there")
    await other.hear(2)
    for end in (one, other):
        end.channel.close()


async def test_who_does_not_read_costs_a_bounded_number_of_messages(pair: Pair) -> None:
    one = End().open(pair[0])
    for _ in range(2 * KEPT):
        one.channel.tell("anything")
    assert one.ended == 1


async def test_who_waits_until_all_is_sent_is_never_cut_off(pair: Pair) -> None:
    one = End().open(pair[0])
    said = 0
    with contextlib.suppress(TimeoutError):
        while said < 2 * KEPT:
            one.channel.tell("anything", "x" * 100)
            said += 1
            await asyncio.wait_for(one.channel.all_sent(), 0.1)
    assert one.ended == 0
    assert said < KEPT
    other = End().open(pair[1])
    await asyncio.wait_for(one.channel.all_sent(), 5)
    assert len(await other.hear(said)) == said
    other.channel.close()
    await asyncio.wait_for(one.channel.all_sent(), 5)


@pytest.mark.parametrize(
    "nonsense", [b"*", b"{}", b"[1]", b"\xff", b'["kind","x",null]', b"[null,null,null]"]
)
async def test_nonsense_is_the_end(pair: Pair, nonsense: bytes) -> None:
    one = End().open(pair[0])
    pair[1].send(nonsense)
    await eventually(lambda: one.ended == 1, what="the end")
    assert one.messages == []


async def test_what_is_not_sealed_is_the_end_and_no_descriptor_is_left(pair: Pair) -> None:
    one = End().open(pair[0])
    before = len(list(Path("/proc/self/fd").iterdir()))
    flawed = os.memfd_create("flawed", os.MFD_ALLOW_SEALING)
    socket.send_fds(pair[1], [b"*"], [flawed])
    os.close(flawed)
    await eventually(lambda: one.ended == 1, what="the end")
    assert len(list(Path("/proc/self/fd").iterdir())) < before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(JSON, max_size=5))
def test_whatever_is_json_passes(bodies: list[object]) -> None:
    async def pass_on() -> list[object]:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        one, other = (End().open(end) for end in ends)
        for body in bodies:
            one.channel.tell("any", body)
        heard = [message.body for message in await other.hear(len(bodies))]
        for end in (one, other):
            end.channel.close()
        return heard

    assert asyncio.run(pass_on()) == bodies
