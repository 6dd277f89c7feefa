"""What `rekeyd demo` stages: a local CA, keys, a settings file, and a certificate that changes every 15
seconds.

Everything lies in one state directory that only its owner can read. The server is the real one; the
certificate is replaced on disk, in one rename, as Kubernetes does it, and the running server notices by
itself.

Must not know: how the server works.
"""

import asyncio
import datetime as dt
import ipaddress
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ROTATE_EVERY = 15.0
"""Seconds."""
_LEAF_DAYS = 90
_CA_DAYS = 365
_SOCKET_PATH_LIMIT = 100


@dataclass(frozen=True, slots=True)
class _Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


class Stage:
    """The state directory of one demo; `every` is in seconds."""

    def __init__(self, directory: Path, *, port: int = 0, every: float = ROTATE_EVERY) -> None:
        self.directory = directory
        self.ca_file = directory / "ca.pem"
        self.settings_file = directory / "rekeyd.yaml"
        self._key = f"demo-{secrets.token_urlsafe(24)}"
        self._read_only_key = f"demo-read-{secrets.token_urlsafe(24)}"
        self._port = port
        self._every = every
        self._authority = _make_authority()
        self._number = 0

    def set(self) -> None:
        """Write everything that the server needs."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory.chmod(0o700)
        for old in self.directory.glob("pair-*"):
            shutil.rmtree(old)
        _write(self.ca_file, self._authority.certificate.public_bytes(Encoding.PEM))
        self.rotate()
        _write(self.settings_file, yaml.safe_dump(self._settings(), sort_keys=False).encode())

    def rotate(self) -> None:
        """A new key and certificate, live on disk with one rename."""
        self._number += 1
        pair = self.directory / f"pair-{self._number}"
        pair.mkdir(mode=0o700)
        chain, key = _issue(self._authority)
        _write(pair / "tls.crt", chain)
        _write(pair / "tls.key", key)
        link = self.directory / "current.new"
        link.unlink(missing_ok=True)
        link.symlink_to(pair.name)
        link.rename(self.directory / "current")
        shutil.rmtree(self.directory / f"pair-{self._number - 2}", ignore_errors=True)

    async def keep_rotating(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            await asyncio.to_thread(self.rotate)

    def hints(self, port: int) -> str:
        """Lines to copy into another terminal."""
        curl = f"curl --cacert {self.ca_file}"
        url = f"https://localhost:{port}"
        key, read = f"-H 'api-key: {self._key}'", f"-H 'api-key: {self._read_only_key}'"
        return "\n".join(
            [
                "",
                f"  rekeyd runs on {url}, with a new certificate every {self._every:g} s.",
                "  In another terminal:",
                "",
                "  # allowed: who you are, how you came, what you asked",
                f"  {curl} {key} -X PUT {url}/collections/books",
                "  # the read-only key may read",
                f"  {curl} {read} {url}/collections",
                "  # but not write; and a wrong key opens nothing",
                f"  {curl} {read} -X DELETE {url}/collections/books",
                f"  {curl} -H 'api-key: wrong' {url}/collections",
                f"  # the serial of the certificate, now and in {self._every:g} seconds",
                f"  {curl} -s -o /dev/null -w '%{{certs}}' {url}/ | grep -i 'serial'",
                "  # a connection that stays open while certificates come and go",
                f"  {curl} -N {key} {url}/stream",
                "",
                "  Ctrl-C ends it.",
                "",
                "",
            ]
        )

    def _settings(self) -> dict[str, object]:
        socket = self.directory / "admin.sock"
        settings: dict[str, object] = {
            "service": {
                "host": "127.0.0.1",
                "http_port": self._port,
                "enable_tls": True,
                "api_key": self._key,
                "read_only_api_key": self._read_only_key,
            },
            "tls": {"cert": "current/tls.crt", "key": "current/tls.key"},
            "upstream": {"http": "demo"},
            "state": {"directory": str(self.directory)},
        }
        if len(os.fsencode(socket)) <= _SOCKET_PATH_LIMIT:
            settings["admin"] = {"socket": str(socket)}
        return settings


def state_directory(environ: Mapping[str, str]) -> Path:
    """Where a demo keeps its files: `$XDG_STATE_HOME/rekeyd/demo` (XDG Base Directory specification)."""
    base = environ.get("XDG_STATE_HOME")
    home = Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "state"
    return home / "rekeyd" / "demo"


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _make_authority() -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rekeyd demo CA")])
    certificate = (
        _builder(name, name, key.public_key(), _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _Authority(key, certificate)


def _issue(authority: _Authority) -> tuple[bytes, bytes]:
    """A leaf for this machine: its chain and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    issuer = authority.certificate
    names = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    leaf = (
        _builder(name, issuer.subject, key.public_key(), _LEAF_DAYS)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
        .sign(authority.key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return leaf.public_bytes(Encoding.PEM), pem


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
