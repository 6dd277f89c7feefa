"""Settings, candidates and whole sites (a settings file and what it names), with real certificates."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rekeyd.access.keys import KeyRing
from rekeyd.access.policy import Policy, Rule
from rekeyd.access.rights import Right
from rekeyd.reload.disk import Disk
from rekeyd.settings import Settings, parse
from rekeyd.trust.certificates import Anchors, Material, read_material
from rekeyd.trust.generation import Candidate, Finding
from rekeyd.trust.revocations import Revocations
from support.pki import Authority, Leaf, replace_file

API_KEY = "a-made-up-key-that-may-do-everything"
POLICY = Policy.of(
    "test", ["/healthz"], [Rule("GET", "/read", Right.READ), Rule("PUT", "/write", Right.WRITE)]
)


def document(**sections: Mapping[str, Any]) -> dict[str, Any]:
    """A whole settings document with TLS on; each section is merged over the default."""
    default: dict[str, dict[str, Any]] = {
        "service": {"enable_tls": True, "api_key": API_KEY, "host": "127.0.0.1", "http_port": 0},
        "tls": {"cert": "tls.crt", "key": "tls.key"},
        "upstream": {"http": "demo"},
    }
    return {name: {**default.get(name, {}), **sections.get(name, {})} for name in default | dict(sections)}


def settings_of(**sections: Mapping[str, Any]) -> Settings:
    source = json.dumps(document(**sections)).encode()
    return parse(source, file=Path("/etc/rekeyd.yaml"), environ={}).settings


def material_of(leaf: Leaf) -> Material:
    return read_material(leaf.chain_pem, leaf.key_pem)


def materials_of(*leaves: Leaf | Material | None) -> tuple[Material, ...]:
    return tuple(material_of(leaf) if isinstance(leaf, Leaf) else leaf for leaf in leaves if leaf is not None)


def candidate_of(
    *leaves: Leaf | Material | None,
    settings: Settings | None = None,
    anchors: Anchors | None = None,
    revocations: Revocations | None = None,
    ring: KeyRing | None = None,
    faults: tuple[Finding, ...] = (),
) -> Candidate:
    """What reading the files would have given; the first certificate is the default, None is left out."""
    return Candidate(
        settings=settings or settings_of(),
        certificates=materials_of(*leaves),
        anchors=anchors,
        revocations=revocations,
        ring=ring or KeyRing([]),
        policy=POLICY,
        digest="",
        faults=faults,
    )


@dataclass
class Site:
    """A settings file, a certificate and its key in a folder, and the authority that signs."""

    folder: Path
    authority: Authority = field(default_factory=Authority)

    def __post_init__(self) -> None:
        self.configure()
        self.leaf = self.rotate()
        self.disk = Disk(self.file, {})

    @property
    def file(self) -> Path:
        return self.folder / "rekeyd.yaml"

    @property
    def cert(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        return self.folder / "tls.key"

    def configure(self, **sections: Mapping[str, Any]) -> None:
        """Write the settings anew; JSON is YAML."""
        replace_file(self.file, json.dumps(document(**sections), indent=2).encode())

    def rotate(self, **properties: Any) -> Leaf:
        """Issue a new certificate and write it with its key."""
        self.leaf = self.authority.issue(**properties)
        self.leaf.write(self.folder)
        return self.leaf
