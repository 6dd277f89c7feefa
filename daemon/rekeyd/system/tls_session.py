"""One end of a TLS connection in memory: bytes in, bytes out, and each direction ends by itself.

The rules: what comes after the handshake is for what is spoken inside. Of records that hold nothing for it
`SILENT` are borne, and one more for each `SPOKEN` that do: a change of keys (RFC 8446, 4.6.3) costs its
sender 27 bytes and us more than reading a hundred times as many, and OpenSSL would answer each without an
end. For the same reason it is given at most `AT_ONCE` records at a time. A message of the handshake that is
torn keeps OpenSSL from writing: an error like any other.

Must not know: sockets, the event loop, or what is spoken inside.
"""

import ssl

from rekeyd.system.shown import ShownObject

SILENT, SPOKEN = 100, 64
AT_ONCE = 64
_RECORD = 16 * 1024  # what one record holds (RFC 8446, 5.1)
_HEADER = 5


class Session:
    """One end of a TLS connection, sans I/O: bytes in, bytes out."""

    __slots__ = (
        "_incoming",
        "_kept",
        "_rest",
        "_silent",
        "_spoken",
        "ended",
        "established",
        "finished",
        "outgoing",
        "server_side",
        "tls",
    )

    def __init__(
        self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None
    ) -> None:
        self.server_side = server_side
        self._incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        """What is to be sent, once: `read` it while something is `pending`."""
        self.tls = context.wrap_bio(
            self._incoming, self.outgoing, server_side=server_side, server_hostname=server_hostname
        )
        """Once the handshake is over `write` encrypts, which fails where the other end has torn a message of
        the handshake: `ssl.SSLError`."""
        self.established = False
        self.ended = False
        """The other end has said all: its close_notify came."""
        self.finished = False
        """We have: ours is among the bytes to send."""
        self._kept = b""
        self._rest = 0
        """Bytes of a record that has begun and are yet to come."""
        self._silent = self._spoken = 0

    def start(self) -> None:
        """Begin the handshake. Raises `ssl.SSLError`."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.established = True
        if isinstance(self.tls, ShownObject):
            self.tls.forget()

    def keep(self, data: bytes | memoryview) -> None:
        """Keep what the other end said for the next `receive`."""
        self._kept += data

    def receive(self, data: bytes | memoryview) -> list[bytes]:
        """What the other end said, decrypted; nothing more once it has ended (RFC 8446, 6.1).

        Raises `ssl.SSLError`, also for its alerts.
        """
        if self.ended:
            return []
        size = len(data)
        between = self.established and not (self._kept or self._rest)
        if between and size > _HEADER and _HEADER + (data[3] << 8 | data[4]) == size:
            return self._decrypted(data, 1)  # one record, and the whole of it, which is the rule
        pieces = []
        for part, records in self._parts(data):
            if self.established:
                pieces += self._decrypted(part, records)
            else:
                self._incoming.write(part)
                self.start()
                if self.established:
                    pieces += self._decrypted(b"", 0)  # records of the handshake are none too many
            if self.ended:
                break
        return pieces

    def _parts(self, data: bytes | memoryview) -> list[tuple[memoryview, int]]:
        """All that is there in parts, each with how many records end in it; a torn header is kept."""
        parts = []
        view = memoryview(self._kept + data if self._kept else data)
        begin, at, size = 0, self._rest, len(view)
        records = 1 if 0 < at <= size else 0
        while at + _HEADER <= size:
            if records == AT_ONCE:
                parts.append((view[begin:at], records))
                begin, records = at, 0
            at += _HEADER + (view[at + 3] << 8 | view[at + 4])
            records += at <= size
        self._kept, self._rest = bytes(view[at:]), max(0, at - size)
        if begin < min(at, size):
            parts.append((view[begin:at], records))
        return parts

    def _decrypted(self, data: bytes | memoryview, records: int) -> list[bytes]:
        """What is in a part in which so many records end."""
        incoming, pieces = self._incoming, []
        if data:
            incoming.write(data)
        try:
            # OpenSSL reads no more than a record ahead, and says all that is in one at once: when everything
            # is read it has nothing more to say, and asked for it would only raise.
            while incoming.pending:
                if not (piece := self.tls.read(_RECORD)):
                    self.ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # what OpenSSL says instead once both have ended
            self.ended = True
        spoken = len(pieces)
        self._spoken += spoken
        if records > spoken:
            self._bear(records - spoken)
        return pieces

    def _bear(self, records: int) -> None:
        """So many held nothing."""
        self._silent += records
        if self._silent > SILENT + self._spoken // SPOKEN:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "too many records with nothing in them")

    def finish(self) -> None:
        """Say that this was all. All that came was decrypted, so OpenSSL has nothing to stumble over while
        it looks for the other's close_notify. Raises `ssl.SSLError`."""
        if self.finished:
            return
        self.finished = True
        try:
            if self.ended:  # then OpenSSL reads nothing, and leaves no error behind (`error_queue.py`)
                ssl.SSLObject.unwrap(self.tls)
            else:
                self.tls.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            return  # what it wants to read is the other end's, which may come whenever that is ready
