"""What the bytes of a snapshot mean, and that the same bytes are worked out once."""

import json
from pathlib import Path
from typing import Any

from rekeyd.access.claims import Terms
from rekeyd.access.pepper import id_of
from rekeyd.reload.files import File
from rekeyd.reload.folder import Contents, Half, Listing
from rekeyd.reload.interpretation import Interpreter
from rekeyd.reload.named import Pair
from rekeyd.reload.snapshot import Snapshot
from rekeyd.settings import parse
from rekeyd.trust.generation import Part, Severity
from support.generations import document
from support.key_files import entry, yaml_of
from support.pki import Authority, Leaf
from support.tokens import AUDIENCE, ISSUER, Issuer, key_set

CA = Authority()
ETC = Path("/etc")
DEFAULT = Pair("tls.cert", "tls.key", None)


def snapshot(
    *,
    pairs: tuple[Pair, ...] = (DEFAULT,),
    folder: Contents | None = None,
    sections: Any = None,
    **named: bytes,
) -> Snapshot:
    """Of these contents; `tls_cert` stands for `tls.cert`."""
    contents = {key.replace("_", ".", 1): File(data, 0o600) for key, data in named.items()}
    source = json.dumps(document(**(sections or {}))).encode()
    parsed = parse(source, file=ETC / "rekeyd.yaml", environ={})
    paths = {key: ETC / key for key in contents}
    return Snapshot(parsed, paths, {"": File(source), **contents}, pairs, folder)


def of_leaf(leaf: Leaf, **more: Any) -> Snapshot:
    return snapshot(tls_cert=leaf.chain_pem, tls_key=leaf.key_pem, **more)


def test_a_pair_becomes_material_that_knows_whence_it_came() -> None:
    leaf = CA.issue()

    [material] = Interpreter().candidate(of_leaf(leaf)).certificates

    assert material.leaf.sha256 == leaf.fingerprint
    assert (material.origin.certificate, material.origin.key, material.origin.key_mode) == (
        "/etc/tls.cert",
        "/etc/tls.key",
        0o600,
    )


def test_what_did_not_change_is_not_worked_out_again() -> None:
    interpreter, leaf = Interpreter(), CA.issue()
    [first] = interpreter.candidate(of_leaf(leaf)).certificates

    [second] = interpreter.candidate(of_leaf(leaf)).certificates
    assert second is first
    interpreter.candidate(of_leaf(CA.issue()))
    [third] = interpreter.candidate(of_leaf(leaf)).certificates
    assert third is not first
    assert third == first


def test_another_passphrase_is_another_question() -> None:
    leaf, interpreter = CA.issue(), Interpreter()
    pairs = (Pair("tls.cert", "tls.key", "tls.key_passphrase_file"),)

    def faults(passphrase: bytes) -> list[str]:
        encrypted = leaf.encrypted_key_pem(b"open sesame")
        found = interpreter.candidate(
            snapshot(
                pairs=pairs, tls_cert=leaf.chain_pem, tls_key=encrypted, tls_key_passphrase_file=passphrase
            )
        )
        return [fault.rule for fault in found.faults]

    assert faults(b"open sesame\n") == []
    assert faults(b"open barley\n") == ["passphrase_wrong"]
    assert faults(b"\n") == ["key_encrypted"]


def test_each_torn_pair_is_a_fault_and_the_others_are_read() -> None:
    leaf, other = CA.issue("a"), CA.issue("b")
    pairs = (DEFAULT, Pair("tls.other", "tls.otherkey", None))

    candidate = Interpreter().candidate(
        of_leaf(leaf, pairs=pairs, tls_other=other.chain_pem[:-50], tls_otherkey=other.key_pem)
    )

    assert [material.leaf.names for material in candidate.certificates] == [("a",)]
    [fault] = candidate.faults
    assert (fault.rule, fault.severity, fault.part) == (
        "truncated_pem",
        Severity.REFUSE,
        Part.SERVER_CERTIFICATE,
    )
    assert "/etc/tls.other: " in fault.message


def test_halves_and_an_empty_folder_are_faults_that_name_the_file() -> None:
    listing = Listing((), {})
    half = Contents(Path("/certs"), listing, (), (Half("a.crt", "there is no key", "Put it there"),))
    empty = Contents(Path("/certs"), listing, (), ())

    [first] = Interpreter().candidate(of_leaf(CA.issue(), folder=half)).faults
    [second] = Interpreter().candidate(of_leaf(CA.issue(), folder=empty)).faults

    assert (first.rule, first.message) == ("pair_incomplete", "/certs/a.crt: there is no key")
    assert (second.rule, second.severity) == ("empty", Severity.REFUSE)


def test_a_revocation_list_is_read_or_a_fault_of_its_part() -> None:
    revocations = Interpreter().candidate(of_leaf(CA.issue(), tls_crl=CA.crl(5))).revocations
    assert revocations is not None
    assert revocations.holds("CN=rekeyd test CA", 5)

    emptied = Interpreter().candidate(of_leaf(CA.issue(), tls_crl=b""))
    assert emptied.revocations is None
    assert [(fault.rule, fault.part) for fault in emptied.faults] == [("empty", Part.CLIENT_CRL)]


ISSUED: dict[str, Any] = {"jwks_file": "issuer.json", "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}


def with_keys(source: bytes, *, leaf: Leaf | None = None, **sections: Any) -> Snapshot:
    return of_leaf(leaf or CA.issue(), sections={"access": ISSUED, **sections}, access_jwks_file=source)


def test_the_keys_of_an_issuer_are_read_or_a_fault_of_their_part() -> None:
    candidate = Interpreter().candidate(with_keys(key_set(Issuer("a"))))
    assert [signer.id for signer in candidate.tokens.signers] == ["jwks:a"]
    assert candidate.tokens.terms == Terms(30, ISSUER, AUDIENCE)
    assert candidate.faults == ()

    [fault] = Interpreter().candidate(with_keys(key_set(Issuer("a"))[:-9])).faults
    assert (fault.rule, fault.severity, fault.part) == ("unparsable", Severity.REFUSE, Part.TOKENS)
    assert fault.message.startswith("/etc/access.jwks_file: ")


def test_a_key_that_is_passed_over_is_told_and_refuses_nothing() -> None:
    candidate = Interpreter().candidate(with_keys(key_set(Issuer("a"), Issuer("b").jwk(alg="PS256"))))
    [fault] = candidate.faults
    assert (fault.rule, fault.severity, fault.part) == ("key_passed_over", Severity.WARN, Part.TOKENS)
    assert "key 2 (b)" in fault.message


def test_the_same_keys_make_the_same_rules_and_other_conditions_other_ones() -> None:
    interpreter, source, leaf = Interpreter(), key_set(Issuer("a")), CA.issue()
    first, second = (interpreter.candidate(with_keys(source, leaf=leaf)).tokens for _ in range(2))
    assert first == second
    for changed in ({"jwt_issuer": "else"}, {"jwt_audience": "else"}):
        other = interpreter.candidate(with_keys(source, access={**ISSUED, **changed})).tokens
        assert other.signers[0].digest != first.signers[0].digest


def test_secrets_sign_tokens_only_where_that_is_wanted() -> None:
    leaf, keys = CA.issue(), {"api_key": "a" * 32, "alt_api_key": "b" * 32, "read_only_api_key": "c" * 32}
    for wanted, signers in ((True, ["api_key", "alt_api_key"]), (False, [])):
        sections = {"service": {**keys, "jwt_rbac": wanted}}
        found = Interpreter().candidate(of_leaf(leaf, sections=sections)).tokens
        assert [signer.id for signer in found.signers] == signers


KEYED: Any = {"access": {"keys_file": "keys.yaml", "pepper_file": "pepper"}}


def test_keys_of_the_file_join_those_of_the_settings_and_are_parsed_once() -> None:
    leaf, interpreter = CA.issue(), Interpreter()
    named = {"access_keys_file": yaml_of(entry("a")), "access_pepper_file": b"p" * 32}
    first = interpreter.candidate(of_leaf(leaf, sections=KEYED, **named))
    assert [credential.id for credential in first.ring] == ["api_key", "a"]
    assert first.key_file is not None
    assert (first.key_origin.file, first.key_origin.mode) == ("/etc/keys.yaml", 0o600)
    assert (first.key_origin.pepper_file, first.key_origin.pepper) == ("/etc/pepper", id_of(b"p" * 32))
    assert interpreter.candidate(of_leaf(CA.issue(), sections=KEYED, **named)).ring is first.ring
    other = {**named, "access_keys_file": yaml_of(entry("b"))}
    assert interpreter.candidate(of_leaf(leaf, sections=KEYED, **other)).ring is not first.ring


def test_a_key_file_that_makes_no_sense_is_a_fault_of_its_part() -> None:
    torn = {"access_keys_file": yaml_of(entry("a"))[:-5], "access_pepper_file": b"short"}
    candidate = Interpreter().candidate(of_leaf(CA.issue(), sections=KEYED, **torn))
    assert [(fault.rule, fault.severity, fault.part) for fault in candidate.faults] == [
        ("keys_torn", Severity.REFUSE, Part.KEYS),
        ("pepper_short", Severity.REFUSE, Part.KEYS),
    ]
    assert candidate.faults[0].message.startswith("/etc/keys.yaml: does not end with a line `...`")
    assert candidate.key_file is None
    assert [credential.id for credential in candidate.ring] == ["api_key"]
    problems = Interpreter().problems(of_leaf(CA.issue(), sections=KEYED, **torn))
    assert [problem.rule for problem in problems] == ["keys_torn", "pepper_short"]
