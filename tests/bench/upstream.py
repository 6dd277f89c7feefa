"""The service behind every server: as cheap as can be, in a process of its own. `python -m bench.upstream`.

It prints its port, and ends when its standard input does. `?size=N` asks for an answer of so many bytes; a
body is read to its end, by its Content-Length, and thrown away.
"""

import functools
import re
import select
import socket
import sys
from collections.abc import Callable
from typing import Protocol

PIECE = 256 * 1024
_SIZE = re.compile(rb"[?&]size=(\d+)")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)


@functools.cache
def answer_of(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % size + (
        b"x" * size
    )


class Visitor:
    """One connection of a server: heads in, answers out."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._head = b""
        self._to_come = 0
        self._size = 0

    def came(self) -> bool:
        """Read what is there; False at the end."""
        try:
            data = self.connection.recv(PIECE)
        except ConnectionResetError:
            return False
        if data and self._to_come:
            self._to_come -= len(data)
        elif data:
            self._head += data
            if not self._read_head():
                return True
        if data and not self._to_come:
            self._answer()
        return bool(data)

    def _read_head(self) -> bool:
        head, end, body = self._head.partition(b"\r\n\r\n")
        if not end:
            return False
        if _CHUNKED.search(head):
            raise SystemExit("the upstream of the benchmark reads no chunks")
        length, size = _LENGTH.search(head), _SIZE.search(head, 0, head.index(b"\r\n"))
        self._to_come = int(length[1]) - len(body) if length else 0
        self._size = int(size[1]) if size else 2
        self._head = b""
        return True

    def _answer(self) -> None:
        try:
            self.connection.sendall(answer_of(self._size))
        except (BrokenPipeError, ConnectionResetError):
            return  # the next read tells


class Speaker(Protocol):
    """Who speaks with one connection of a server."""

    connection: socket.socket

    def came(self) -> bool: ...


def serve(listening: socket.socket, speaker: Callable[[socket.socket], Speaker]) -> None:
    """Until standard input ends."""
    speakers: dict[int, Speaker] = {}
    poll = select.epoll()
    poll.register(sys.stdin.fileno(), select.EPOLLIN)
    poll.register(listening.fileno(), select.EPOLLIN)
    while True:
        for number, _ in poll.poll():
            if number == sys.stdin.fileno():
                return
            if number == listening.fileno():
                connection, _ = listening.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                speakers[connection.fileno()] = speaker(connection)
                poll.register(connection.fileno(), select.EPOLLIN)
            elif not speakers[number].came():
                poll.unregister(number)
                speakers.pop(number).connection.close()


def main(speaker: Callable[[socket.socket], Speaker]) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        print(listening.getsockname()[1], flush=True)  # noqa: T201 - how its port is known
        serve(listening, speaker)


if __name__ == "__main__":
    main(Visitor)
