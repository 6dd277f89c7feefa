"""One client's connection: TLS 1.3 without resumption, requests out, answers in. Blocking, and cheap."""

import contextlib
import re
import socket
import ssl
import time
from pathlib import Path

PATIENCE = 20.0
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class UnexpectedError(Exception):
    """An answer that was not asked for: there is nothing to measure."""


def trusting(authority: str, *protocols: str) -> ssl.SSLContext:
    """TLS 1.3 that believes this authority alone, and offers `protocols`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=Path(authority).read_text())
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def connect(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Shaken hands, and blocking. Raises OSError."""
    plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        return context.wrap_socket(plain, server_hostname="localhost")
    except OSError:
        plain.close()
        raise


def close(connection: ssl.SSLSocket) -> None:
    """As clients leave that are done: close_notify, without waiting for the server's."""
    with contextlib.suppress(OSError, ValueError):
        connection.setblocking(False)
        connection.unwrap()
    connection.close()


class Answers:
    """Counts the answers in the bytes that came. One at a time is under way."""

    def __init__(self, status: int) -> None:
        self._begins = b"HTTP/1.1 %d " % status
        self._head = b""
        self._left = 0
        self.closes = False
        """Whether the server said that there is no other answer after this one."""

    def took(self, data: bytes | memoryview) -> bool:
        """Whether the answer is whole with these bytes."""
        if self._left:
            self._left -= len(data)
            return self._left == 0
        self._head += bytes(data) if isinstance(data, memoryview) else data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return False
        length = _LENGTH.search(self._head, 0, end)
        if not self._head.startswith(self._begins) or length is None:
            raise UnexpectedError(repr(self._head[: end + 400]))
        self.closes = _CLOSES.search(self._head, 0, end) is not None
        self._left = int(length[1]) - (len(self._head) - end - 4)
        self._head = b""
        return self._left == 0


def ask(connection: ssl.SSLSocket, request: bytes | memoryview, answers: Answers) -> float:
    """One request and its answer; seconds for both. Raises OSError where none comes."""
    began = time.perf_counter()
    connection.sendall(request)
    buffer = memoryview(bytearray(64 * 1024))
    while True:
        count = connection.recv_into(buffer)
        if not count:
            raise ConnectionResetError("closed without an answer")
        if answers.took(buffer[:count]):
            return time.perf_counter() - began
