"""The judge on keys: one case for each rule."""

import stat
from dataclasses import replace

import pytest

from rekeyd.access.key_file import KeyFile, KeyOrigin
from rekeyd.access.keys import Credential, KeyRing
from rekeyd.access.rights import Right
from rekeyd.settings import Settings
from rekeyd.trust.generation import Candidate, Finding, Part, Severity
from rekeyd.trust.judge import judge
from support.generations import candidate_of, settings_of
from support.judging import NOW, rules_broken
from support.pki import Authority

LEAF = Authority().issue()
DAY = 86_400.0
T = NOW.timestamp()
STATIC = [Credential("api_key", Right.MANAGE, b"static")]


def key(key_id: str = "a", expires: float | None = None) -> Credential:
    return Credential(key_id, Right.READ, f"{key_id} {expires}".encode(), expires=expires, named=True)


def with_keys(
    *keys: Credential, settings: Settings | None = None, origin: KeyOrigin | None = None, **file: object
) -> Candidate:
    """What a key file with these keys makes of a candidate."""
    chosen = settings or settings_of(service={"api_key": None}, access={"keys_file": "keys.yaml"})
    return replace(
        candidate_of(LEAF, settings=chosen, ring=KeyRing((*STATIC[: bool(chosen.service.api_key)], *keys))),
        key_file=KeyFile(keys, **file),  # type: ignore[arg-type]  # what a test wants
        key_origin=origin or KeyOrigin("/etc/keys.yaml"),
    )


def found(candidate: Candidate, current: Candidate | None = None) -> dict[str, Finding]:
    verdict = judge(candidate, current.generation(1) if current else None, NOW)
    return {finding.rule: finding for finding in verdict.findings}


def test_sound_keys_are_accepted_without_a_word() -> None:
    assert found(with_keys(key(), key("b", T + 15 * DAY))) == {}


def test_an_emptied_key_file_keeps_the_old_keys_unless_somebody_says_otherwise() -> None:
    static = {"service": {"api_key": "k" * 32}, "access": {"keys_file": "keys.yaml"}}
    emptied = with_keys(settings=settings_of(**static))
    assert found(emptied) == {}
    refusal = found(emptied, with_keys(key()))["keys_emptied"]
    assert (refusal.severity, refusal.part) == (Severity.REFUSE, Part.KEYS)
    assert "judge.keys_emptied" in refusal.fix
    allowed = with_keys(settings=settings_of(**static, judge={"keys_emptied": "warn"}))
    assert found(allowed, with_keys(key()))["keys_emptied"].severity is Severity.WARN
    assert found(allowed, allowed) == {}


def test_a_key_file_that_held_nothing_but_expired_keys_may_be_emptied() -> None:
    emptied = with_keys(
        settings=settings_of(service={"api_key": "k" * 32}, access={"keys_file": "keys.yaml"})
    )
    assert "keys_emptied" not in found(emptied, with_keys(key("a", T - DAY)))
    assert "keys_emptied" in found(emptied, with_keys(key("a", T - DAY), key("b", T + DAY)))


def test_where_nobody_would_get_in_nothing_is_served() -> None:
    assert found(with_keys())["no_key"].severity is Severity.REFUSE
    insecure = settings_of(service={"api_key": None, "insecure": True}, access={"keys_file": "keys.yaml"})
    assert "no_key" in found(with_keys(settings=insecure))


def test_a_key_file_that_could_not_be_read_is_told_once() -> None:
    fault = Finding("keys_torn", Severity.REFUSE, Part.KEYS, "torn")
    candidate = replace(with_keys(), key_file=None, faults=(fault,))
    assert judge(candidate, with_keys(key()).generation(1), NOW).findings == (fault,)


def test_digests_need_the_pepper_that_they_were_made_with() -> None:
    origin = KeyOrigin("/etc/keys.yaml", pepper_file="/etc/pepper", pepper="11111111")
    missing = found(with_keys(key(), pepper="11111111", peppered=True))
    assert missing["pepper_missing"].severity is Severity.REFUSE
    other = found(with_keys(key(), origin=origin, pepper="22222222", peppered=True))
    assert other["pepper_mismatch"].severity is Severity.REFUSE
    assert "holds the pepper 11111111" in other["pepper_mismatch"].message
    assert found(with_keys(key(), origin=origin, pepper="11111111", peppered=True)) == {}
    assert found(with_keys(key(), origin=origin)) == {}


def test_what_expires_is_told_once_with_some_ids() -> None:
    [soon] = found(with_keys(key("a", T + 13 * DAY), key("b"))).values()
    assert (soon.rule, soon.severity) == ("key_expires_soon", Severity.WARN)
    assert soon.message == "the key a expires within 14 days"
    many = found(with_keys(*(key(f"k{n}", T + DAY) for n in range(9))))["key_expires_soon"]
    assert many.message == "9 keys (k0, k1, k2, k3, k4, …) expire within 14 days"
    [gone] = found(with_keys(key("a", T - 1), key("b", T), key("c"))).values()
    assert (gone.rule, gone.severity) == ("key_expired", Severity.WARN)
    assert gone.message == "2 keys (a, b) have expired and can be removed"


def test_a_key_expires_with_its_last_secret() -> None:
    assert found(with_keys(key("a", T - 1), key("a"))) == {}
    assert found(with_keys(key("a", T + DAY), key("a", T + 30 * DAY))) == {}
    assert found(with_keys(key("a", T - 1), key("a", T + DAY))).keys() == {"key_expires_soon"}


@pytest.mark.parametrize(("mode", "told"), [(0o600, False), (0o644, False), (0o660, True), (0o606, True)])
def test_a_key_file_that_others_can_write_is_told(mode: int, told: bool) -> None:
    broken = rules_broken(judge(with_keys(key(), origin=KeyOrigin("/etc/keys.yaml", mode)), None, NOW))
    assert broken == ({"key_file_writable": Severity.WARN} if told else {})


def test_a_pepper_that_everybody_can_read_is_told() -> None:
    origin = KeyOrigin("/etc/keys.yaml", pepper_file="/etc/pepper", pepper_mode=0o640 | stat.S_IROTH)
    [finding] = found(with_keys(key(), origin=origin)).values()
    assert (finding.rule, finding.severity) == ("pepper_exposed", Severity.WARN)
    assert finding.fix == "chmod o-r /etc/pepper"


def test_of_very_many_keys_with_one_secret_a_few_are_told() -> None:
    same = [Credential(f"k{n}", Right.READ, b"same", named=True) for n in range(100)]
    assert len(judge(with_keys(*same), None, NOW).findings) == 5
