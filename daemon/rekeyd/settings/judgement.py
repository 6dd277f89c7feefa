"""The section `judge`: how grave the breach of each rule is.

Must not know: what a rule looks at (`trust/judge.py`).
"""

from rekeyd.settings import fields
from rekeyd.settings.section import Section, setting


class Judge(Section):
    """One key for each rule of `trust/judge.py` that may be set; the other rules always refuse."""

    expired: fields.Gravity = setting(
        "refuse",
        "The certificate has expired. Never served in place of one that is still good, whatever this says.",
        reloadable=True,
    )
    not_yet_valid: fields.GravityOrHold = setting(
        "hold",
        "The certificate is not valid yet. `hold`: it goes live by itself when it is.",
        reloadable=True,
    )
    weak_key: fields.Gravity = setting(
        "refuse",
        "An RSA key has fewer than 2048 bits. OpenSSL has its own bound: `@SECLEVEL=0` in `tls.ciphers` "
        "lowers it.",
        reloadable=True,
    )
    weak_signature: fields.Gravity = setting(
        "refuse",
        "The certificate is signed with MD5 or SHA-1. OpenSSL's own bound as above.",
        reloadable=True,
    )
    peer_unbelieved: fields.Gravity = setting(
        "refuse",
        "With `cluster.p2p.enable_tls`: `tls.ca_cert` does not vouch for the own certificate, so peers with "
        "the same file would refuse it.",
        reloadable=True,
    )
    peer_unfit: fields.Gravity = setting(
        "refuse",
        "With `cluster.p2p.enable_tls`: the own certificate is not for servers and clients both.",
        reloadable=True,
    )
    expiry_backwards: fields.Gravity = setting(
        "warn",
        "The new certificate expires before the one that it replaces.",
        reloadable=True,
    )
    names_lost: fields.Gravity = setting(
        "warn",
        "A name that is served now would be covered by no certificate.",
        reloadable=True,
    )
    chain_disordered: fields.Gravity = setting(
        "warn",
        "A certificate of the chain is not followed by its issuer's.",
        reloadable=True,
    )
    chain_incomplete: fields.Gravity = setting(
        "warn",
        "The issuer's certificate seems to be missing from the chain.",
        reloadable=True,
    )
    intermediate_expired: fields.Gravity = setting(
        "warn",
        "An intermediate certificate of the chain has expired.",
        reloadable=True,
    )
    expires_soon: fields.Gravity = setting(
        "warn",
        "The certificate expires within 14 days, or is in the last third of a shorter life.",
        reloadable=True,
    )
    clock_skew: fields.Gravity = setting(
        "warn",
        "The certificate was issued some minutes from now, or this machine's clock went back.",
        reloadable=True,
    )
    certificate_shadowed: fields.Gravity = setting(
        "warn",
        "All names of a certificate belong to others before it, so that it is never served.",
        reloadable=True,
    )
    key_exposed: fields.Gravity = setting(
        "warn",
        "A private key's file can be read by every user of this machine.",
        reloadable=True,
    )
    client_ca_expired: fields.Gravity = setting(
        "warn",
        "A client authority has expired: its clients are refused.",
        reloadable=True,
    )
    crl_incomplete: fields.Gravity = setting(
        "warn",
        "A client authority has no CRL in `tls.crl`: its clients are refused.",
        reloadable=True,
    )
    crl_backwards: fields.Gravity = setting(
        "warn", "A CRL is older than the one that it replaces.", reloadable=True
    )
    keys_emptied: fields.Gravity = setting(
        "refuse",
        "The key file has no keys any more, and had some.",
        reloadable=True,
    )
    key_expires_soon: fields.Gravity = setting(
        "warn",
        "The last secret of a key expires within 14 days.",
        reloadable=True,
    )
    key_expired: fields.Gravity = setting(
        "warn",
        "A key has expired and is still in the key file.",
        reloadable=True,
    )
    key_file_writable: fields.Gravity = setting(
        "warn",
        "The key file can be written by its group or by others, who could let themselves in.",
        reloadable=True,
    )
    pepper_exposed: fields.Gravity = setting(
        "warn",
        "The pepper file can be read by every user of this machine.",
        reloadable=True,
    )
    secrets_shadowed: fields.Gravity = setting(
        "warn",
        "Two API keys have the same secret, so that one is never found.",
        reloadable=True,
    )
