"""The reloader: one run at a time, an outcome always, and the old generation where the new one won't do."""

import asyncio
import datetime as dt
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from rekeyd.reload.contexts import ProbeError, serving_of
from rekeyd.reload.current import Current, Serving
from rekeyd.reload.outcome import Outcome, Result
from rekeyd.reload.reloader import Reloader
from rekeyd.trust.generation import Candidate, Generation, Part
from support.generations import API_KEY, Site, candidate_of
from support.pki import DAY, Authority, now, replace_file, write_in_place, write_torn

Logs = list[Any]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def logs() -> Iterator[Logs]:
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def current() -> Current:
    return Current()


@pytest.fixture
def reloader(site: Site, current: Current, logs: Logs) -> Reloader:
    return Reloader(current, site.disk.load, serving_of)


def leaf_of(current: Current) -> str:
    assert current.generation is not None
    assert current.generation.default is not None
    return current.generation.default.leaf.sha256


def rules(outcome: Outcome) -> list[str]:
    return [finding.rule for finding in outcome.findings]


async def test_the_first_load_is_applied_as_generation_1(
    reloader: Reloader, current: Current, site: Site, logs: Logs
) -> None:
    outcome = await reloader.reload("start")

    assert (outcome.result, outcome.generation, outcome.trigger) == (Result.APPLIED, 1, "start")
    assert leaf_of(current) == site.leaf.fingerprint
    assert current.serving is not None
    assert current.serving.tls is not None
    [line] = logs
    assert (line["event"], line["log_level"], line["generation"]) == ("reload.applied", "info", 1)
    assert line["trigger"] == "start"
    assert reloader.last is outcome


async def test_a_new_certificate_is_applied(reloader: Reloader, current: Current, site: Site) -> None:
    await reloader.reload("start")
    old, new = site.leaf, site.rotate()

    outcome = await reloader.reload("sighup")

    assert (outcome.result, outcome.generation) == (Result.APPLIED, 2)
    assert leaf_of(current) == new.fingerprint
    [change] = outcome.changes
    assert (change.detail["old"]["sha256"], change.detail["new"]["sha256"]) == (
        old.fingerprint,
        new.fingerprint,
    )


async def test_unchanged_files_leave_the_very_same_context(
    reloader: Reloader, current: Current, site: Site
) -> None:
    await reloader.reload("start")
    serving = current.serving
    write_in_place(site.file, site.file.read_bytes() + b"\n# a comment changes nothing\n")

    outcome = await reloader.reload("sighup")

    assert (outcome.result, outcome.generation, outcome.changes) == (Result.UNCHANGED, 1, ())
    assert current.serving is serving


async def test_keys_and_certificate_change_in_one_generation(
    reloader: Reloader, current: Current, site: Site
) -> None:
    await reloader.reload("start")
    site.rotate()
    site.configure(service={"api_key": "another-key-for-everything"})

    outcome = await reloader.reload("sighup")

    assert outcome.generation == 2
    assert {change.part for change in outcome.changes} == {Part.SERVER_CERTIFICATE, Part.KEYS, Part.SETTINGS}
    assert current.generation is not None
    assert current.generation.ring.find(b"another-key-for-everything") is not None
    assert current.generation.ring.find(API_KEY.encode()) is None


def truncate(site: Site) -> None:
    write_torn(site.cert, site.cert.read_bytes())


def put_another_key(site: Site) -> None:
    replace_file(site.key, site.authority.issue().key_pem)


def empty_the_key(site: Site) -> None:
    write_in_place(site.key, b"")


def remove_the_certificate(site: Site) -> None:
    site.cert.unlink()


def put_an_expired_one(site: Site) -> None:
    site.rotate(not_before=now() - 9 * DAY, not_after=now() - DAY)


def put_a_weak_one(site: Site) -> None:
    site.rotate(key="rsa1024")


def break_the_settings(site: Site) -> None:
    site.configure(service={"htp_port": 1})


def encrypt_the_key(site: Site) -> None:
    replace_file(site.key, site.leaf.encrypted_key_pem())


@pytest.mark.parametrize(
    ("spoil", "rule", "part"),
    [
        (truncate, "truncated_pem", Part.SERVER_CERTIFICATE),
        (put_another_key, "key_mismatch", Part.SERVER_CERTIFICATE),
        (empty_the_key, "empty", Part.SERVER_CERTIFICATE),
        (encrypt_the_key, "key_encrypted", Part.SERVER_CERTIFICATE),
        (remove_the_certificate, "unreadable", Part.SERVER_CERTIFICATE),
        (put_an_expired_one, "expired", Part.SERVER_CERTIFICATE),
        (put_a_weak_one, "weak_key", Part.SERVER_CERTIFICATE),
        (break_the_settings, "settings", Part.SETTINGS),
    ],
)
async def test_bad_material_never_replaces_good(
    spoil: Callable[[Site], None],
    rule: str,
    part: Part,
    reloader: Reloader,
    current: Current,
    site: Site,
    logs: Logs,
) -> None:
    good = site.leaf
    await reloader.reload("start")
    serving = current.serving

    spoil(site)
    outcome = await reloader.reload("sighup")

    assert (outcome.result, outcome.generation) == (Result.REFUSED, 1)
    assert (rule, part) in {(finding.rule, finding.part) for finding in outcome.findings}
    assert current.serving is serving
    assert logs[-1]["event"] == "reload.refused"
    assert logs[-1]["log_level"] == "error"
    assert logs[-1]["findings"]

    good.write(site.folder)
    site.configure()
    assert (await reloader.reload("sighup")).result is Result.UNCHANGED


async def test_a_refusal_at_start_serves_nothing(reloader: Reloader, current: Current, site: Site) -> None:
    truncate(site)

    outcome = await reloader.reload("start")

    assert (outcome.result, outcome.generation, outcome.problems) == (Result.REFUSED, None, ())
    assert current.serving is None


async def test_problems_with_settings_are_told_apart_from_refused_material(
    reloader: Reloader, site: Site
) -> None:
    site.key.unlink()

    outcome = await reloader.reload("start")

    [problem] = outcome.problems
    assert problem.key == "tls.key"
    assert rules(outcome) == ["unreadable"]


async def test_a_part_that_cannot_be_read_is_not_told_as_removed(reloader: Reloader, site: Site) -> None:
    await reloader.reload("start")
    truncate(site)

    assert (await reloader.reload("sighup")).changes == ()


async def test_settings_that_need_a_restart_are_named_until_it_happens(
    reloader: Reloader, site: Site
) -> None:
    await reloader.reload("start")
    generation = reloader._current.generation
    assert generation is not None
    site.disk.pin(generation.settings)
    site.configure(service={"http_port": 7443, "max_request_size_mb": 1})

    first, again = await reloader.reload("sighup"), await reloader.reload("sighup")

    assert (first.result, again.result) == (Result.APPLIED, Result.UNCHANGED)
    assert first.restart_needed == again.restart_needed == ("service.http_port",)
    served = reloader._current.generation
    assert served is not None
    assert served.settings.service.http_port == generation.settings.service.http_port
    assert served.settings.service.max_request_size_mb == 1


async def test_tls_that_is_switched_off_in_the_file_stays_on_until_a_restart(
    reloader: Reloader, site: Site, current: Current
) -> None:
    await reloader.reload("start")
    assert current.generation is not None
    site.disk.pin(current.generation.settings)
    site.configure(service={"enable_tls": False})

    outcome = await reloader.reload("sighup")

    assert outcome.result is Result.UNCHANGED
    assert outcome.restart_needed == ("service.enable_tls",)
    assert current.serving is not None
    assert current.serving.tls is not None


class Gate:
    """A `load` that can be held open, to see what happens meanwhile."""

    def __init__(self, load: Callable[[], Candidate]) -> None:
        self._load = load
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.runs = 0
        self.at_once = 0

    def __call__(self) -> Candidate:
        self.runs += 1
        self.at_once += 1
        assert self.at_once == 1
        self.entered.release()
        assert self.go.wait(10)
        candidate = self._load()
        self.at_once -= 1
        return candidate


async def test_twenty_requests_at_once_are_one_run(site: Site, current: Current, logs: Logs) -> None:
    gate = Gate(site.disk.load)
    gate.go.set()
    reloader = Reloader(current, gate, serving_of)

    outcomes = await asyncio.gather(*(reloader.reload("sighup") for _ in range(20)))

    assert gate.runs == 1
    assert all(outcome is outcomes[0] for outcome in outcomes)
    assert len(logs) == 1


async def test_a_request_during_a_run_is_answered_by_the_next_one(
    site: Site, current: Current, logs: Logs
) -> None:
    gate = Gate(site.disk.load)
    reloader = Reloader(current, gate, serving_of)
    running = asyncio.create_task(reloader.reload("start"))
    await asyncio.to_thread(gate.entered.acquire)

    late = [asyncio.create_task(reloader.reload("sighup")) for _ in range(20)]
    gate.go.set()
    first, *others = await asyncio.gather(running, *late)

    assert gate.runs == 2
    assert first.result is Result.APPLIED
    assert {outcome.result for outcome in others} == {Result.UNCHANGED}
    assert len({id(outcome) for outcome in others}) == 1


async def test_the_loop_is_not_held_while_a_run_reads(site: Site, current: Current, logs: Logs) -> None:
    gate = Gate(site.disk.load)
    reloader = Reloader(current, gate, serving_of)

    running = asyncio.create_task(reloader.reload("start"))
    await asyncio.to_thread(gate.entered.acquire)
    assert not running.done()
    gate.go.set()

    assert (await running).result is Result.APPLIED


async def test_who_asked_is_named_before_what_asks_by_itself(
    site: Site, current: Current, logs: Logs
) -> None:
    reloader = Reloader(current, site.disk.load, serving_of)

    outcomes = await asyncio.gather(*(reloader.reload(t) for t in ("watch", "sighup", "ttl")))

    assert {outcome.trigger for outcome in outcomes} == {"sighup"}


async def test_a_request_that_is_cancelled_does_not_cancel_the_run(
    site: Site, current: Current, logs: Logs
) -> None:
    gate = Gate(site.disk.load)
    reloader = Reloader(current, gate, serving_of)
    impatient = asyncio.create_task(reloader.reload("sighup"))
    await asyncio.to_thread(gate.entered.acquire)

    impatient.cancel()
    gate.go.set()
    await reloader.close()

    assert current.number == 1


async def test_an_unexpected_error_is_a_refusal_that_does_not_repeat_its_words(
    site: Site, current: Current, logs: Logs
) -> None:
    broken = False

    def load() -> Candidate:
        if broken:
            raise KeyError(API_KEY)
        return site.disk.load()

    reloader = Reloader(current, load, serving_of)
    await reloader.reload("start")
    broken = True

    outcome = await reloader.reload("sighup")

    assert (outcome.result, outcome.generation, rules(outcome)) == (Result.REFUSED, 1, ["internal_error"])
    assert "KeyError at test_reloader.py" in outcome.findings[0].message
    assert logs[-1]["log_level"] == "error"
    assert API_KEY not in json.dumps(logs)


class Panic(BaseException):
    """As a library in Rust raises it: no `Exception`."""


async def test_a_panic_is_a_refusal_too(current: Current, logs: Logs) -> None:
    def load() -> Candidate:
        raise Panic

    outcome = await Reloader(current, load, serving_of).reload("start")

    assert rules(outcome) == ["internal_error"]


async def test_a_failed_probe_is_a_refusal(site: Site, current: Current, logs: Logs) -> None:
    honest = True

    def build(generation: Generation) -> Serving:
        if not honest:
            raise ProbeError("it shows another certificate", "Please report this")
        return serving_of(generation)

    reloader = Reloader(current, site.disk.load, build)
    await reloader.reload("start")
    honest = False
    site.rotate()

    outcome = await reloader.reload("sighup")

    assert (outcome.result, outcome.generation, rules(outcome)) == (Result.REFUSED, 1, ["probe"])


async def test_everybody_is_told_even_if_somebody_fails(site: Site, current: Current, logs: Logs) -> None:
    told: list[tuple[Outcome, int | None]] = []

    def fails(_outcome: Outcome) -> None:
        raise RuntimeError(API_KEY)

    def listens(outcome: Outcome) -> None:
        told.append((outcome, current.number))

    outcome = await Reloader(current, site.disk.load, serving_of, on_outcome=[fails, listens]).reload("start")

    assert told == [(outcome, 1)]
    assert logs[-1]["event"] == "reload.callback_failed"
    assert API_KEY not in json.dumps(logs)


async def test_a_certificate_is_held_and_goes_live_by_itself(current: Current, logs: Logs) -> None:
    authority = Authority()
    start = dt.datetime.now(dt.UTC)
    valid_from = start.replace(microsecond=0) + dt.timedelta(seconds=3)
    leaves = [authority.issue(), authority.issue(not_before=valid_from)]
    happened: asyncio.Queue[Outcome] = asyncio.Queue()
    candidates = [candidate_of(leaf) for leaf in leaves]
    index = 0
    reloader = Reloader(current, lambda: candidates[index], serving_of, on_outcome=[happened.put_nowait])
    await reloader.reload("start")
    index = 1

    held = await reloader.reload("watch")
    assert (held.result, held.held_until, held.generation) == (Result.REFUSED, valid_from, 1)
    assert logs[-1]["held_until"] == valid_from.isoformat()
    outcomes = [await asyncio.wait_for(happened.get(), 5) for _ in range(3)]

    assert (outcomes[-1].result, outcomes[-1].trigger) == (Result.APPLIED, "not_before")
    assert dt.datetime.now(dt.UTC) >= valid_from
    assert leaf_of(current) == leaves[1].fingerprint
    await reloader.close()


async def test_a_held_certificate_that_is_taken_away_is_forgotten(
    reloader: Reloader, site: Site, current: Current
) -> None:
    good = site.leaf
    await reloader.reload("start")
    site.rotate(not_before=now() + dt.timedelta(seconds=2))
    assert (await reloader.reload("sighup")).held_until is not None

    good.write(site.folder)

    assert (await reloader.reload("sighup")).result is Result.UNCHANGED
    assert reloader._timer is None


def told(logs: Logs) -> list[str]:
    """What an operator sees: everything above debug."""
    return [line["event"] for line in logs if line["log_level"] != "debug"]


async def test_who_asks_is_told_the_truth_each_time_and_the_watch_repeats_nothing(
    reloader: Reloader, site: Site, logs: Logs
) -> None:
    await reloader.reload("start")
    truncate(site)
    logs.clear()

    for trigger in ("sighup", "watch", "ttl", "watch", "admin"):
        assert (await reloader.reload(trigger)).result is Result.REFUSED

    assert [(line["trigger"], line["log_level"]) for line in logs] == [
        ("sighup", "error"),
        ("watch", "debug"),
        ("ttl", "debug"),
        ("watch", "debug"),
        ("admin", "error"),
    ]


async def test_what_may_be_the_middle_of_a_change_is_borne_quietly(
    reloader: Reloader, site: Site, logs: Logs
) -> None:
    await reloader.reload("start")
    put_another_key(site)
    logs.clear()

    outcomes = [await reloader.reload(trigger) for trigger in ("watch", "watch", "ttl")]

    assert {outcome.result for outcome in outcomes} == {Result.SETTLING}
    assert not any(outcome.refused for outcome in outcomes)
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("reload.settling", "info"),
        ("reload.settling", "debug"),
        ("reload.settling", "debug"),
    ]
    assert reloader.refused_since is None
    await reloader.close()


async def test_what_no_moment_mends_is_told_at_once(reloader: Reloader, site: Site, logs: Logs) -> None:
    await reloader.reload("start")
    put_an_expired_one(site)
    logs.clear()

    assert (await reloader.reload("watch")).result is Result.REFUSED
    assert told(logs) == ["reload.refused"]
    await reloader.close()


class Heard:
    """The outcomes of a reloader, to be waited for."""

    def __init__(self, reloader: Reloader) -> None:
        self.outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
        reloader._on_outcome.append(self.outcomes.put_nowait)

    async def next(self, result: Result) -> Outcome:
        async with asyncio.timeout(5):
            while (outcome := await self.outcomes.get()).result is not result:
                pass
        return outcome


async def test_what_is_not_mended_in_time_is_told_and_told_again(
    reloader: Reloader, site: Site, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rekeyd.reload.patience.PAUSES", (0.2, 0.3))
    monkeypatch.setattr("rekeyd.reload.patience.SOON", 0.1)
    site.configure(tls={"settle": 0.4})
    await reloader.reload("start")
    heard, began = Heard(reloader), time.time()
    put_another_key(site)

    await reloader.reload("watch")
    assert reloader.refused_since is None
    first = await heard.next(Result.REFUSED)
    assert time.time() - began >= 0.4
    assert reloader.refused_since is not None
    assert began <= reloader.refused_since <= began + 0.3
    await heard.next(Result.REFUSED)
    await heard.next(Result.REFUSED)

    assert (first.trigger, first.generation) == ("retry", 1)
    assert told(logs)[1:] == ["reload.settling", *["reload.refused"] * 3]
    assert [line["log_level"] for line in logs if line["event"] == "reload.refused"] == ["error"] * 3
    await reloader.close()


async def test_when_all_is_well_again_one_line_says_so(
    reloader: Reloader, site: Site, current: Current, logs: Logs
) -> None:
    good = site.leaf
    await reloader.reload("start")
    put_another_key(site)
    await reloader.reload("sighup")
    assert reloader.refused_since is not None
    good.write(site.folder)
    logs.clear()

    for _ in range(3):
        await reloader.reload("watch")

    assert told(logs) == ["reload.unchanged"]
    assert reloader.refused_since is None
    assert reloader._timer is None
    assert current.number == 1


async def test_the_watch_says_nothing_of_files_that_are_as_they_were(
    reloader: Reloader, site: Site, logs: Logs
) -> None:
    await reloader.reload("start")
    logs.clear()

    await reloader.reload("watch")

    assert told(logs) == []


async def test_a_pair_in_two_writes_is_applied_once_and_without_an_error(
    reloader: Reloader, site: Site, current: Current, logs: Logs
) -> None:
    await reloader.reload("start")
    leaf = site.authority.issue()

    replace_file(site.cert, leaf.chain_pem)
    assert (await reloader.reload("watch")).result is Result.SETTLING
    replace_file(site.key, leaf.key_pem)
    assert (await reloader.reload("watch")).result is Result.APPLIED

    assert leaf_of(current) == leaf.fingerprint
    assert told(logs) == ["reload.applied", "reload.settling", "reload.applied"]
    assert not [line for line in logs if line["log_level"] == "error"]


async def test_a_held_certificate_is_told_once_and_is_no_error(
    reloader: Reloader, site: Site, logs: Logs
) -> None:
    await reloader.reload("start")
    site.rotate(not_before=now() + DAY)
    logs.clear()

    for _ in range(3):
        await reloader.reload("watch")

    assert [(line["event"], line["log_level"]) for line in logs if line["log_level"] != "debug"] == [
        ("reload.refused", "warning")
    ]
    await reloader.close()


# At start


async def test_torn_material_at_start_is_read_again_until_it_is_whole(
    site: Site, current: Current, logs: Logs
) -> None:
    truncate(site)
    reloader = Reloader(current, site.disk.load, serving_of, start_wait=10)

    assert (await reloader.reload("start")).settling
    settled = asyncio.create_task(reloader.settled())
    site.leaf.write(site.folder)

    assert (await settled).result is Result.APPLIED
    assert current.number == 1
    assert [(line["event"], line["log_level"]) for line in logs if line["log_level"] != "debug"] == [
        ("reload.settling", "warning"),
        ("reload.applied", "info"),
    ]
    await reloader.close()


async def test_torn_material_at_start_is_refused_when_the_wait_is_over(
    site: Site, current: Current, logs: Logs
) -> None:
    truncate(site)
    reloader = Reloader(current, site.disk.load, serving_of, start_wait=0.6)

    await reloader.reload("start")
    outcome = await reloader.settled()

    assert (outcome.result, rules(outcome)) == (Result.REFUSED, ["truncated_pem"])
    assert logs[-1]["log_level"] == "error"
    await reloader.close()


# The proof after publishing


class Proof:
    """Servers that say what they are told to, and note what was served while they looked."""

    def __init__(self, current: Current) -> None:
        self.current = current
        self.objection: str | None = None
        self.reason: str | None = None
        self.prepared: list[int] = []
        self.spread_so_far: list[int] = []
        self.looked_at: list[int] = []

    async def prepare(self, serving: Serving) -> str | None:
        assert self.current.serving is not serving
        self.prepared.append(serving.generation.number)
        return self.objection

    async def spread(self, serving: Serving) -> None:
        assert self.current.serving is serving
        self.spread_so_far.append(serving.generation.number)

    async def verify(self, serving: Serving) -> str | None:
        assert self.current.serving is serving
        self.looked_at.append(serving.generation.number)
        return self.reason


async def test_what_one_server_can_not_serve_is_served_by_none(
    site: Site, current: Current, logs: Logs
) -> None:
    proof = Proof(current)
    reloader = Reloader(current, site.disk.load, serving_of, servers=proof)
    await reloader.reload("start")
    before = current.serving
    site.rotate()
    proof.objection = "it has no memory left"

    outcome = await reloader.reload("sighup")
    assert (outcome.result, outcome.generation, rules(outcome)) == (Result.REFUSED, 1, ["worker"])
    assert "it has no memory left" in outcome.findings[0].message
    assert current.serving is before
    assert (proof.prepared, proof.spread_so_far, proof.looked_at) == ([1, 2], [1], [])

    proof.objection = None
    assert (await reloader.reload("sighup")).result is Result.APPLIED
    assert proof.spread_so_far == [1, 2]
    await reloader.close()


async def test_servers_that_break_over_a_generation_do_not_serve_it(
    site: Site, current: Current, logs: Logs
) -> None:
    class Broken(Proof):
        async def prepare(self, serving: Serving) -> str | None:  # noqa: ARG002 - as the others have it
            raise RuntimeError(API_KEY)

    reloader = Reloader(current, site.disk.load, serving_of, servers=Broken(current))
    assert (await reloader.reload("start")).refused
    assert current.serving is None
    assert API_KEY not in json.dumps(logs)
    await reloader.close()


async def test_what_is_published_is_verified_but_not_the_first(
    site: Site, current: Current, logs: Logs
) -> None:
    proof = Proof(current)
    reloader = Reloader(current, site.disk.load, serving_of, servers=proof)
    await reloader.reload("start")
    site.rotate()

    assert (await reloader.reload("sighup")).result is Result.APPLIED
    assert proof.looked_at == [2]


async def test_a_generation_that_does_not_prove_itself_is_rolled_back_loudly(
    site: Site, current: Current, logs: Logs
) -> None:
    proof = Proof(current)
    reloader = Reloader(current, site.disk.load, serving_of, servers=proof)
    await reloader.reload("start")
    before = current.serving
    site.rotate()
    proof.reason = "it showed another certificate"

    outcome = await reloader.reload("watch")

    assert (outcome.result, outcome.generation, rules(outcome)) == (Result.REFUSED, 1, ["probe_listener"])
    assert "it showed another certificate" in outcome.findings[0].message
    assert current.serving is before
    assert proof.spread_so_far == [1, 2, 1]
    assert (logs[-1]["event"], logs[-1]["log_level"]) == ("reload.refused", "critical")
    assert reloader.refused_since is not None
    await reloader.close()


async def test_a_failed_generation_is_not_tried_again_unless_somebody_asks(
    site: Site, current: Current, logs: Logs
) -> None:
    proof = Proof(current)
    reloader = Reloader(current, site.disk.load, serving_of, servers=proof)
    await reloader.reload("start")
    site.rotate()
    proof.reason = "it showed another certificate"
    await reloader.reload("watch")

    proof.reason = None
    again = await reloader.reload("watch")
    assert (again.result, rules(again)) == (Result.REFUSED, ["probe_listener"])
    assert proof.looked_at == [2]

    asked = await reloader.reload("admin")
    assert (asked.result, asked.generation) == (Result.APPLIED, 3)
    assert proof.looked_at == [2, 3]


async def test_other_files_after_a_failed_generation_are_tried(
    site: Site, current: Current, logs: Logs
) -> None:
    proof = Proof(current)
    reloader = Reloader(current, site.disk.load, serving_of, servers=proof)
    await reloader.reload("start")
    site.rotate()
    proof.reason = "it showed another certificate"
    await reloader.reload("watch")
    proof.reason = None
    site.rotate()

    outcome = await reloader.reload("watch")

    assert (outcome.result, outcome.generation) == (Result.APPLIED, 3)


async def test_a_proof_that_breaks_proves_nothing_against_the_generation(
    site: Site, current: Current, logs: Logs
) -> None:
    class Broken(Proof):
        async def verify(self, serving: Serving) -> str | None:  # noqa: ARG002 - as the others have it
            raise RuntimeError(API_KEY)

    reloader = Reloader(current, site.disk.load, serving_of, servers=Broken(current))
    await reloader.reload("start")
    site.rotate()

    assert (await reloader.reload("sighup")).result is Result.APPLIED
    assert "reload.unverified" in told(logs)
    assert API_KEY not in json.dumps(logs)


async def test_no_secret_is_logged(reloader: Reloader, site: Site, logs: Logs) -> None:
    await reloader.reload("start")
    site.rotate()
    site.configure(service={"api_key": "another-key-for-everything"})
    outcome = await reloader.reload("sighup")
    put_another_key(site)
    await reloader.reload("sighup")

    everything = json.dumps(logs) + repr(outcome) + repr(reloader.last) + "\n".join(outcome.lines())
    for secret in (API_KEY, "another-key-for-everything", site.leaf.key_pem.splitlines()[1].decode()):
        assert secret not in everything


async def test_a_hundred_rotations_leave_no_descriptor_or_thread_behind(
    reloader: Reloader, site: Site, current: Current
) -> None:
    await reloader.reload("start")
    descriptors, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    for _ in range(100):
        site.rotate()
        assert (await reloader.reload("sighup")).result is Result.APPLIED

    assert current.number == 101
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert threading.active_count() <= threads + 6  # the loop's own pool, bounded by the number of cores
