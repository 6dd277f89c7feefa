"""An authority that speaks ACME, and certbot as its client: both real, from Debian (`pebble`, `certbot`).

Names are proven by HTTP-01 on a port of loopback, where certbot's own web server answers for a moment.

async with AcmeAuthority.running(folder) as authority:
    await authority.issue()
    await authority.renew()
    assert authority.serial == ...
"""

import asyncio
import contextlib
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from cryptography import x509

from support.live import PATIENCE, trusting
from support.peers import free_port
from support.pki import Authority
from support.processes import ran

_AT_FULL_SPEED = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"}
"""No pauses and no errors on purpose, and every name is proven anew."""


def missing() -> str | None:
    """What of it this machine lacks; None where it is all there."""
    absent = [command for command in ("certbot", "pebble") if shutil.which(command) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


class AcmeAuthority:
    """A running Pebble, and a folder in which certbot keeps all that is its own, for the name `localhost`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._web = Authority("of the ACME server's own certificate")
        self._port, self._roots_at, self._proven_at = free_port(), free_port(), free_port()
        self.live = folder / "letsencrypt/live/localhost"
        self.archive = folder / "letsencrypt/archive/localhost"
        self.trust: ssl.SSLContext
        """A client that believes what this authority issues."""

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, folder: Path) -> AsyncIterator["AcmeAuthority"]:
        authority = cls(folder)
        process = authority._start()
        try:
            authority.trust = ssl.create_default_context(cadata=await authority._root())
            yield authority
        finally:
            process.kill()
            process.wait()

    async def certbot(self, action: str, *options: str) -> str:
        """What certbot says on stdout; AssertionError unless it succeeds."""
        own = {"config-dir": "letsencrypt", "work-dir": "work", "logs-dir": "logs"}
        places = [part for name, folder in own.items() for part in (f"--{name}", str(self.folder / folder))]
        said = await ran(
            *("certbot", action, "--non-interactive", *places, *options),
            environ={"REQUESTS_CA_BUNDLE": str(self.folder / "web.pem")},
        )
        return said.decode()

    async def issue(self, *options: str) -> str:
        """The first certificate for `localhost`."""
        account = ("--agree-tos", "--register-unsafely-without-email")
        server = ("--server", f"https://127.0.0.1:{self._port}/dir")
        proof = ("--standalone", "--http-01-address", "127.0.0.1", "--http-01-port", str(self._proven_at))
        return await self.certbot("certonly", *account, *server, *proof, "-d", "localhost", *options)

    async def renew(self) -> str:
        """A new certificate and key, before they are due, with all that certbot remembers of the first."""
        return await self.certbot("renew", "--force-renewal", "--no-random-sleep-on-renew")

    @property
    def serial(self) -> int:
        """Of the certificate that lies on the disk."""
        return x509.load_pem_x509_certificate((self.live / "cert.pem").read_bytes()).serial_number

    def _start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "pebble.log").open("wb") as log:
            return subprocess.Popen(
                ["pebble", "-config", str(self._config())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | _AT_FULL_SPEED,
            )

    def _config(self) -> Path:
        self._web.write(self.folder / "web.pem")
        cert, key = self._web.issue().write(self.folder)
        config = {
            "listenAddress": f"127.0.0.1:{self._port}",
            "managementListenAddress": f"127.0.0.1:{self._roots_at}",
            "certificate": str(cert),
            "privateKey": str(key),
            "httpPort": self._proven_at,
            "tlsPort": free_port(),
        }
        file = self.folder / "pebble.json"
        file.write_text(json.dumps({"pebble": config}))
        return file

    async def _root(self) -> str:
        """Its root certificate, as soon as it answers."""
        async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as http:
            while True:
                with contextlib.suppress(aiohttp.ClientConnectorError):
                    url = f"https://127.0.0.1:{self._roots_at}/roots/0"
                    async with http.get(url, ssl=trusting(self._web)) as answer:
                        return await answer.text()
                await asyncio.sleep(0.05)
