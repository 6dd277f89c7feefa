"""What must never be told, and the search for it in all that was told.

Every daemon's output goes into a transcript; at its end, and at the end of the session, each transcript is
searched for every secret that the session used, in the forms in which one could slip out.
"""

import base64
import json
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

SHORTEST = 8
"""Bytes of a secret; a shorter one would be found by chance."""


@dataclass(slots=True)
class Ledger:
    """The session's secrets and transcripts. `folder` holds the transcripts."""

    folder: Path
    secrets: dict[str, str] = field(default_factory=dict)
    """Each secret, and who uses it."""

    def add(self, secret: str, owner: str) -> None:
        if len(secret) < SHORTEST:
            raise ValueError(f"a secret of {len(secret)} characters would be found by chance")
        self.secrets.setdefault(secret, owner)

    def transcript(self, name: str) -> Path:
        """A new file for what a process tells."""
        return self.folder / f"{len(list(self.folder.iterdir())):05d}-{name}"

    def leaks(self) -> list[str]:
        """One sentence for each secret found in a transcript; the secret itself isn't in it."""
        return [leak for path in sorted(self.folder.iterdir()) for leak in self.leaks_in(path)]

    def leaks_in(self, path: Path) -> list[str]:
        told = path.read_bytes()
        return [
            f"{path.name} tells a secret of {owner}, as {form}, at byte {told.index(text)}"
            for secret, owner in self.secrets.items()
            for form, text in _forms(secret).items()
            if text in told
        ]


def _forms(secret: str) -> dict[str, bytes]:
    raw = secret.encode()
    return {
        "it is": raw,
        "JSON": json.dumps(secret)[1:-1].encode(),
        "a repr": repr(secret)[1:-1].encode(),
        "percent-encoded": urllib.parse.quote(secret, safe="").encode(),
        "hex": raw.hex().encode(),
        "base64": base64.b64encode(raw).rstrip(b"="),
    }
