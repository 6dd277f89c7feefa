"""The transport below TLS, over real sockets: what is sent arrives, in order, and each end is told once."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from rekeyd.system.socket_transport import SocketTransport
from support.waiting import eventually


class Noting(asyncio.BufferedProtocol):
    """Writes down what it is told."""

    def __init__(self, *, stays: bool = False) -> None:
        self.told: list[str] = []
        self.heard = bytearray()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._stays = stays
        self._buffer = bytearray(1000)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: ARG002 - asyncio's signature
        self.told.append("made")

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - likewise
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._buffer[:nbytes] == b"fail":
            raise ValueError("on purpose")
        self.heard += self._buffer[:nbytes]

    def eof_received(self) -> bool:
        self.told.append("eof")
        return self._stays

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.lost.set_result(exc)


class Ends:
    """Our end, what it was told, and the other one by hand."""

    def __init__(self, protocol: Noting, ours: socket.socket, theirs: socket.socket) -> None:
        self.protocol = protocol
        self.theirs = theirs
        self.transport = SocketTransport(ours, protocol, ("192.0.2.1", 7))

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.theirs, data)

    async def take(self, count: int) -> bytes:
        """Up to `count` bytes, fewer at the end."""
        taken = b""
        while len(taken) < count:
            piece = await asyncio.get_running_loop().sock_recv(self.theirs, count - len(taken))
            if not piece:
                break
            taken += piece
        return taken

    async def lost(self) -> Exception | None:
        return await asyncio.wait_for(asyncio.shield(self.protocol.lost), 5)


@asynccontextmanager
async def ends(*, stays: bool = False) -> AsyncIterator[Ends]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.setblocking(False)
    with theirs:
        both = Ends(Noting(stays=stays), ours, theirs)
        yield both
        both.transport.abort()
        await both.lost()
        assert both.protocol.told.count("lost") == 1
        assert ours.fileno() == -1


async def test_what_is_said_goes_both_ways() -> None:
    async with ends() as both:
        await both.send(b"a question")
        await eventually(lambda: both.protocol.heard == b"a question")
        both.transport.write(bytearray(b"an answer"))
        assert await both.take(9) == b"an answer"
        assert both.transport.get_extra_info("peername") == ("192.0.2.1", 7)
        assert both.transport.get_extra_info("sockname")[0] == "127.0.0.1"
        assert both.transport.get_extra_info("socket").family == socket.AF_INET
        assert both.transport.get_extra_info("cipher", "none") == "none"


async def test_what_the_kernel_does_not_take_waits_and_the_protocol_is_told() -> None:
    async with ends() as both:
        both.transport.set_write_buffer_limits(high=1000)
        pieces = [bytes([number]) * 500_000 for number in range(20)]
        for piece in pieces:
            both.transport.write(memoryview(piece))
        assert both.transport.get_write_buffer_size() > 1000
        assert both.protocol.told == ["made", "pause"]
        both.transport.close()
        assert both.transport.is_closing()
        assert await both.take(10_000_001) == b"".join(pieces)
        assert await both.lost() is None
        assert both.protocol.told == ["made", "pause", "resume", "lost"]


async def test_a_limit_that_is_set_later_holds_for_what_waits() -> None:
    async with ends() as both:
        while not both.transport.get_write_buffer_size():
            both.transport.write(b"x" * 10_000)
        assert "pause" not in both.protocol.told
        both.transport.set_write_buffer_limits(high=1)
        assert both.protocol.told[-1] == "pause"


async def test_one_direction_may_end_before_the_other() -> None:
    async with ends(stays=True) as both:
        both.transport.write(b"x" * 1_000_000)
        both.transport.write_eof()
        both.transport.write(b"too late")
        assert await both.take(1_000_001) == b"x" * 1_000_000
        await both.send(b"still heard")
        await eventually(lambda: both.protocol.heard == b"still heard")
        both.theirs.shutdown(socket.SHUT_WR)
        await eventually(lambda: both.protocol.told[-1] == "eof")
        assert not both.transport.is_closing()


async def test_an_end_that_nobody_stays_for_closes() -> None:
    async with ends() as both:
        both.theirs.shutdown(socket.SHUT_WR)
        assert await both.lost() is None
        assert both.protocol.told == ["made", "eof", "lost"]


async def test_who_does_not_read_is_not_read_to() -> None:
    async with ends() as both:
        both.transport.pause_reading()
        both.transport.pause_reading()
        assert not both.transport.is_reading()
        await both.send(b"later")
        for _ in range(5):
            await asyncio.sleep(0)
        assert both.protocol.heard == b""
        both.transport.resume_reading()
        both.transport.resume_reading()
        await eventually(lambda: both.protocol.heard == b"later")


async def test_a_reset_is_told_as_an_error() -> None:
    async with ends() as both:
        both.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        both.theirs.close()
        assert isinstance(await both.lost(), ConnectionResetError)
        both.transport.write(b"nobody is there")
        both.transport.close()


async def test_an_abort_drops_what_waits() -> None:
    async with ends() as both:
        both.transport.write(b"x" * 10_000_000)
        both.transport.abort()
        both.transport.write(b"too late")
        assert both.transport.get_write_buffer_size() == 0
        assert await both.lost() is None


async def test_a_protocol_that_fails_loses_its_connection_and_nothing_else() -> None:
    accidents: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: accidents.append(told["exception"]))
    async with ends() as both:
        await both.send(b"fail")
        error = await both.lost()
        assert isinstance(error, ValueError)
        assert accidents == [error]
    asyncio.get_running_loop().set_exception_handler(None)


@pytest.mark.parametrize("limits", [{"high": None, "low": None}, {"low": 100}, {"high": 100, "low": 50}])
async def test_marks_are_given_as_asyncio_gives_them(limits: dict[str, int | None]) -> None:
    async with ends() as both:
        both.transport.set_write_buffer_limits(**limits)
        assert both.transport._low <= both.transport._high
