"""What an upstream answers, read out of bytes as they arrive.

The rules: llhttp parses, strictly. In addition a status lies between 100 and 599, interim answers (1xx) are
passed over, 101 is good only where an upgrade was asked for, chunks are HTTP/1.1's, and a head (interim ones
with it), or what stands between two pieces of a body (chunk extensions, trailers), is bounded. A body that
ends with the connection is whole only if the connection ended in order. Bytes that follow a whole answer
belong to nobody: the connection that carried them is not used again. How bytes are cut on their way makes no
difference: the parser sees heads and chunks, and nothing past the end of a head.

Must not know: sockets, time.
"""

import re
from dataclasses import dataclass

import httptools

from rekeyd.http1.request import Field, Framing, tokens

MAX_HEAD = 64 * 1024
"""Bytes of a response head, and of chunk extensions and trailers in a row."""

_KEPT = 4096
"""Bytes of a head that is kept for comparison at most."""

SWITCHING_PROTOCOLS = 101
_FIRST, _FINAL, _LAST = 100, 200, 599
_NO_CONTENT = 204
_NOT_MODIFIED = 304
_REASON = re.compile(rb"[\t -~\x80-\xff]*")
_END_OF_HEAD = b"\r\n\r\n"
_LAST_CHUNK = re.compile(rb"[^\r\n]\r\n\r\n")
_TAIL = 5
"""Bytes that tell whether chunks end here: the last line that isn't blank, and the two ends of lines."""


class BadResponseError(Exception):
    """The upstream broke the protocol; the message says how."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status, reason phrase and fields as they came, and how the body is delimited.

    `until_close`: by the end of the connection.
    """

    status: int
    reason: bytes
    fields: tuple[Field, ...]
    framing: Framing
    until_close: bool


class LastHead:
    """The last head that was read on a connection, of which one that is the same byte for byte needs no
    parser. What it says depends on nothing else than whether the request was HEAD (`bodiless`).

    `missing` and `complete` are what a reader knows behind it.
    """

    __slots__ = ("bodiless", "complete", "head", "keep_alive", "missing", "raw", "size")

    def __init__(self) -> None:
        self.raw = b""
        self.size = 0
        self.bodiless = False
        self.head: ResponseHead | None = None
        self.keep_alive = False
        self.missing: int | None = None
        self.complete = False


class ResponseReader:
    """Reads one answer to one request: feed it bytes, then look at `head`, `pieces`, `complete`, `excess`."""

    __slots__ = (
        "_error",
        "_fields",
        "_last_head",
        "_method",
        "_missing",
        "_parser",
        "_reason",
        "_tail",
        "_unbroken",
        "_upgrades",
        "complete",
        "excess",
        "head",
        "keep_alive",
        "pieces",
    )

    def __init__(self, method: bytes, *, upgrades: bool = False, last_head: LastHead | None = None) -> None:
        self.head: ResponseHead | None = None
        self.pieces: list[bytes] = []
        self.complete = False
        self.excess = False
        self.keep_alive = False
        self._method = method
        self._upgrades = upgrades
        self._last_head = last_head
        self._parser: httptools.HttpResponseParser | None = None
        self._reason = b""
        self._fields: list[Field] = []
        self._missing: int | None = None
        self._unbroken = 0
        self._tail = b""
        self._error: str | None = None

    def feed(self, data: bytes) -> None:
        """Take what arrived.

        Raises:
            BadResponseError: the answer can't be used, or no longer.
        """
        last = self._last_head
        if self.head is None and self._parser is None and last is not None and last.head is not None:
            data = self._recognised(data, last, last.head)
        while data and not self.complete:
            parses = self.head is None or self.head.framing.chunked
            data = self._parse(data) if parses else self._pass(data)
        if data:
            self.excess = True

    def end(self) -> None:
        """The upstream closed the connection in order.

        Raises:
            BadResponseError: before the answer was whole.
        """
        if self.complete:
            return
        if self.head is None or not self.head.until_close:
            raise BadResponseError("closed the connection before the answer was whole")
        self.complete = True

    def _recognised(self, data: bytes, last: LastHead, head: ResponseHead) -> bytes:
        """Take a head that is known already; returns the rest."""
        if not data.startswith(last.raw) or last.bodiless is not (self._method == b"HEAD"):
            return data
        self.head, self.keep_alive = head, last.keep_alive
        self._missing, self.complete = last.missing, last.complete
        return data[last.size :]

    def _keep(self, raw: bytes, head: ResponseHead, last: LastHead) -> None:
        """Keep a head for the next time. Chunks are left to the parser, which must have seen their head."""
        whole = raw.endswith(_END_OF_HEAD) and len(raw) <= _KEPT
        if whole and not head.framing.chunked and head.status != SWITCHING_PROTOCOLS:
            last.raw, last.size, last.bodiless = raw, len(raw), self._method == b"HEAD"
            last.head, last.keep_alive = head, self.keep_alive
            last.missing, last.complete = self._missing, self.complete

    def _pass(self, data: bytes) -> bytes:
        """Take the part that is body as it is; returns the rest."""
        if self._missing is None:
            self.pieces.append(data)
            return b""
        piece, rest = data[: self._missing], data[self._missing :]
        self.pieces.append(piece)
        self._missing -= len(piece)
        self.complete = self._missing == 0
        return rest

    def _parse(self, data: bytes) -> bytes:
        """Give the parser as much as it may see at once; returns the rest."""
        portion = data[: self._portion(data)]
        parser = self._parser
        begins = parser is None
        if parser is None:
            parser = self._parser = httptools.HttpResponseParser(self)
        self._unbroken += len(portion)
        self._tail = (self._tail + portion)[-_TAIL:]
        try:
            parser.feed_data(portion)
        except httptools.HttpParserUpgrade:
            if self.head is None:
                raise BadResponseError("switched protocols unasked") from None
        except httptools.HttpParserError as error:
            if not self.complete:
                raise BadResponseError(self._error or f"sent a malformed answer ({error})") from None
            self.excess = True  # garbage behind a whole answer spoils the connection, not the answer
        if self.complete and self._chunked and _LAST_CHUNK.fullmatch(self._tail) is None:
            self.excess = True  # blank lines, which the parser skips without a word
        if begins and self.head is not None and self._last_head is not None:
            self._keep(portion, self.head, self._last_head)
        if self.complete or (self.head is not None and not self.head.framing.chunked):
            self._parser = None  # it has seen all that is for it, and holds us
        return data[len(portion) :]

    def _portion(self, data: bytes) -> int:
        room = MAX_HEAD - self._unbroken
        if room <= 0:
            raise BadResponseError("sent a head, chunk extension or trailer that is too long")
        if self.head is not None:
            return room
        before = self._tail[1 - len(_END_OF_HEAD) :]
        end = (before + data[:room]).find(_END_OF_HEAD)
        return room if end < 0 else end + len(_END_OF_HEAD) - len(before)

    # What llhttp calls back.

    def on_message_begin(self) -> None:
        if self.complete:
            self.excess = True

    def on_status(self, status: bytes) -> None:
        self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is None:
            self._fields.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.complete or self._parser is None:
            return
        status, version = self._parser.get_status_code(), self._parser.get_http_version()
        fields, reason = tuple(self._fields), self._reason
        self._fields, self._reason = [], b""
        if not (_FIRST <= status <= _LAST and version in {"1.0", "1.1"} and _REASON.fullmatch(reason)):
            self._refuse("sent no status line of HTTP/1")
        if status == SWITCHING_PROTOCOLS:
            self._switch(fields, reason)
        elif status >= _FINAL:
            self._begin(status, reason, fields, self._framing(fields, version))

    def on_body(self, body: bytes) -> None:
        self._unbroken = 0
        if self.complete:
            self.excess = True
        else:
            self.pieces.append(body)

    def on_message_complete(self) -> None:
        if self._chunked:
            self.complete = True

    @property
    def _chunked(self) -> bool:
        """Whether the body comes in chunks, whose end only the parser knows."""
        return self.head is not None and self.head.framing.chunked and not self._is_bodiless(self.head.status)

    def _is_bodiless(self, status: int) -> bool:
        return self._method == b"HEAD" or status in {_NO_CONTENT, _NOT_MODIFIED}

    def _begin(self, status: int, reason: bytes, fields: tuple[Field, ...], framing: Framing) -> None:
        until_close = not self._is_bodiless(status) and framing == Framing()
        stays = self._parser is not None and self._parser.should_keep_alive()
        self.keep_alive = not until_close and stays
        self._expect_body(
            ResponseHead(status, reason, fields, framing if status != _NO_CONTENT else Framing(), until_close)
        )

    def _expect_body(self, head: ResponseHead) -> None:
        length = head.framing.length
        self.head = head
        self._missing, self._unbroken = length, 0
        self.complete = length == 0 or self._is_bodiless(head.status)

    def _switch(self, fields: tuple[Field, ...], reason: bytes) -> None:
        upgrade = tokens([v for name, v in fields if name.lower() == b"upgrade"])
        connection = tokens([v for name, v in fields if name.lower() == b"connection"])
        if not self._upgrades or upgrade != {b"websocket"} or b"upgrade" not in connection:
            self._refuse("switched protocols unasked")
        self.head = ResponseHead(SWITCHING_PROTOCOLS, reason, fields, Framing(), until_close=True)

    def _framing(self, fields: tuple[Field, ...], version: str) -> Framing:
        codings = [v.lower() for name, v in fields if name.lower() == b"transfer-encoding"]
        lengths = [v for name, v in fields if name.lower() == b"content-length"]
        if codings:
            if codings != [b"chunked"] or lengths or version == "1.0":
                self._refuse("framed the body in more than one way")
            return Framing(chunked=True)
        if len(lengths) > 1 or any(not v.isdigit() for v in lengths):
            self._refuse("framed the body in more than one way")
        return Framing(length=int(lengths[0])) if lengths else Framing()

    def _refuse(self, why: str) -> None:
        self._error = why
        raise BadResponseError(why)
