"""A client of TLS 1.3 that, after a sound handshake, says what no library would: torn messages, floods.

client = Crafted.connect(port, context)
client.send(client.record(HANDSHAKE, KEY_UPDATE[:2]))
"""

import socket
import ssl
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

ALERT, HANDSHAKE, DATA = 21, 22, 23
KEY_UPDATE = b"\x18\x00\x00\x01\x01"
"""A KeyUpdate that asks for one in return, by its last byte (RFC 8446, 4.6.3)."""
_MEMORY = 64 * 1024


class Crafted:
    """`sock` after the handshake; `record` makes what may be sent there, in the order in which it is made."""

    def __init__(self, sock: socket.socket, secret: bytes, algorithm: hashes.HashAlgorithm) -> None:
        self.sock = sock
        self._algorithm = algorithm
        self._take(secret)

    def _take(self, secret: bytes) -> None:
        self._secret, self._number = secret, 0
        self._cipher = AESGCM(self._expanded("key", 32 if self._algorithm.digest_size == 48 else 16))
        self._nonce = int.from_bytes(self._expanded("iv", 12), "big")

    def _expanded(self, label: str, length: int) -> bytes:
        """HKDF-Expand-Label (RFC 8446, 7.1)."""
        name = b"tls13 " + label.encode()
        info = length.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0"
        return HKDFExpand(self._algorithm, length, info).derive(self._secret)

    def record(self, kind: int, content: bytes) -> bytes:
        inner = content + bytes([kind])
        head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        nonce = (self._nonce ^ self._number).to_bytes(12, "big")
        self._number += 1
        return head + self._cipher.encrypt(nonce, inner, head)

    def key_update(self, *, ask: bool = True) -> bytes:
        """One whole, after which all is under the next key."""
        record = self.record(HANDSHAKE, KEY_UPDATE[:4] + bytes([ask]))
        self._take(self._expanded("traffic upd", self._algorithm.digest_size))
        return record

    @classmethod
    def connect(cls, port: int, context: ssl.SSLContext, *, room: int | None = None) -> "Crafted":
        """Shake hands with 127.0.0.1; `room` is what the kernel may receive before it is taken, in bytes."""
        sock = socket.socket()
        if room is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", port))
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "keys")
            context.keylog_filename = str(log)
            tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(sock.recv(_MEMORY))
            sock.sendall(outgoing.read())
            told = [line.split() for line in log.read_text().splitlines()]
        secret = next(bytes.fromhex(line[2]) for line in told if line[0] == "CLIENT_TRAFFIC_SECRET_0")
        name = tls.cipher()
        assert name is not None
        return cls(sock, secret, hashes.SHA384() if name[0].endswith("SHA384") else hashes.SHA256())
