"""Who was let in, and how they came, as fields for the upstream (`upstream.identity_headers`).

The rule: clients can't forge these fields, which are dropped where they send them (`forwarding.OURS`).

Must not know: which request they are for, or by which protocol it came.
"""

from rekeyd.access.verdict import Allowed
from rekeyd.http1.request import Field


def introduced(
    verdict: Allowed, *, tls: str | None, cipher: str | None, certificate: str | None
) -> list[Field]:
    """The fields. `tls` is the version; `certificate` what to call the client by its own."""
    credential = verdict.credential
    said = {
        b"X-Rekeyd-Key-Id": None if credential is None else credential.id.encode(),
        b"X-Rekeyd-Right": None if credential is None else str(credential.right).encode(),
        b"X-Rekeyd-Subject": None if credential is None else credential.told_subject,
        b"X-Rekeyd-Tls": None if tls is None else tls.encode(),
        b"X-Rekeyd-Cipher": None if cipher is None else cipher.encode(),
        b"X-Rekeyd-Client-Cert": None if certificate is None else certificate.encode("ascii"),
    }
    return [(name, value) for name, value in said.items() if value is not None]
