"""The decision about one call, as this listener asks for it, and its statuses in gRPC.

The rules: who gets in is decided by the same function as for HTTP (`gatekeeper`), what a method needs by the
same policy, in which a method stands like a path, with the collection behind it where it is of one:
`/qdrant.Points/Search/books`. The name is asked for only where the verdict depends on it: who reaches all
collections is let in without it. What is no full name of a method is a path that is not in normal form. Where
a message may name further collections the policy says in which fields; who is limited to some must be allowed
all of them, and where it doesn't say is not let in.

Must not know: frames.
"""

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import quote_from_bytes

from rekeyd.access.admission import Ask, Presented, admit
from rekeyd.access.policy import GRPC, Policy
from rekeyd.access.rights import Right
from rekeyd.access.verdict import Allowed, Denied, Reason, Unverified
from rekeyd.gatekeeper import Gatekeeper
from rekeyd.http2.fields import Fields
from rekeyd.http2.protobuf import Wanted
from rekeyd.trust.generation import Generation

_METHOD = re.compile(rb"/[A-Za-z_][A-Za-z0-9_.]*/[A-Za-z_][A-Za-z0-9_]*")
_SOME = b"-"
"""In the place of a collection that is not known."""

_REMEMBERED, _LONGEST_REMEMBERED = 1024, 256
_FIELD = 1
"""The field of a message that names its collection."""
_STATUS_OF = {
    Reason.NO_CREDENTIAL: 16,
    Reason.UNKNOWN_KEY: 16,
    Reason.WEAK_SECRET: 16,
    Reason.REPEATED_CREDENTIAL: 3,
    Reason.PATH_NOT_NORMAL: 3,
    Reason.TOO_MANY_FAILURES: 8,
    Reason.TOO_MANY_WAITING: 8,
    Reason.RATE_LIMITED: 8,
}
"""What is not here was understood, and is refused: PERMISSION_DENIED."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked, by whom: `path` is the method's, `client` an address."""

    path: bytes
    fields: Fields = field(repr=False)
    client: str


@dataclass(frozen=True, slots=True)
class NeedsCollection:
    """It depends on the collections that the message names.

    `allowed` is the verdict otherwise; `counted`: the rate of the key was asked already.
    """

    allowed: Allowed
    counted: bool
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class Ruling:
    """A verdict, by which generation, on what."""

    verdict: Allowed | Denied | NeedsCollection
    ask: Ask
    generation: Generation


class Judge:
    """Asks the gatekeeper. `current` is the generation in force; `now` in seconds of the epoch."""

    def __init__(
        self,
        gatekeeper: Gatekeeper,
        current: Callable[[], Generation],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._gatekeeper = gatekeeper
        self._current = current
        self._now = now
        self._policy: Policy | None = None
        self._of_a_collection: dict[bytes, bool] = {}

    def judge(self, asked: Asked) -> Ruling | Awaitable[Ruling]:
        """Whether a call is let in; what is to be awaited comes later, and other calls go on meanwhile."""
        return self._judged(asked, None, None)

    def judge_collection(self, asked: Asked, ruling: Ruling, collection: bytes) -> Ruling | Awaitable[Ruling]:
        """The verdict once it is known which collection a call is for.

        It is judged from the beginning, as a call that comes now: while the message came its key may have
        expired or been removed. Only the rate of a key is not asked twice.
        """
        depends, generation = ruling.verdict, self._current()
        if not isinstance(depends, NeedsCollection):
            raise TypeError("the verdict did not depend on the collection")
        credential = depends.allowed.credential
        if depends.counted and credential is not None and generation is ruling.generation:
            ask = self._ask(asked, generation, collection)
            verdict = admit(ask, credential, generation.policy, self._now())
            return Ruling(_seen(verdict, depends.wanted, generation), ask, generation)
        return self._judged(asked, collection, depends.wanted)

    def judge_further(self, ruling: Ruling, collection: bytes) -> Denied | None:
        """What speaks against a collection that the message names beside the one that was judged.

        As with bodies of HTTP: it must be one that the credential may read.
        """
        credential = ruling.verdict.credential if isinstance(ruling.verdict, Allowed) else None
        if credential is not None and credential.limits.collections is None:
            return None
        if credential and credential.limits.admit_collection((collection,), Right.READ, of_points=True):
            return None
        message = "Forbidden: read access to each collection that the message names is required"
        return Denied(Reason.COLLECTION_NOT_ALLOWED, message, credential)

    def _judged(
        self, asked: Asked, collection: bytes | None, wanted: Wanted | None
    ) -> Ruling | Awaitable[Ruling]:
        """`wanted`: what is being looked for in the message."""
        generation = self._current()
        ask = self._ask(asked, generation, collection)
        verdict = self._gatekeeper.judge(ask, generation)
        if isinstance(verdict, Unverified) or verdict.reason is Reason.TOO_MANY_FAILURES:
            return self._later(verdict, generation, asked, (collection, wanted))
        return _ruled(verdict, ask, generation, wanted)

    async def _later(
        self,
        verdict: Allowed | Denied | Unverified,
        generation: Generation,
        asked: Asked,
        known: tuple[bytes | None, Wanted | None],
    ) -> Ruling:
        """What takes its time: the verification of a token, or a penalty."""
        collection, wanted = known
        last, ask, by = await self._gatekeeper.settled(
            verdict, generation, lambda then: self._ask(asked, then, collection), self._current
        )
        if isinstance(last, Denied):
            await self._gatekeeper.penalty(last)
        return _ruled(last, ask, by, wanted)

    def _ask(self, asked: Asked, generation: Generation, collection: bytes | None) -> Ask:
        path = asked.path
        if _METHOD.fullmatch(path) is None:
            path = b"/" + path  # no path in normal form begins so
        elif self._is_of_a_collection(path, generation.policy):
            path += b"/" + (_SOME if collection is None else quote_from_bytes(collection, safe="").encode())
        return Ask(GRPC, path, Presented.among(asked.fields), asked.client)

    def _is_of_a_collection(self, path: bytes, policy: Policy) -> bool:
        """Looked up once for each method, as long as there are not too many, and the policy is the same."""
        if policy is not self._policy or len(self._of_a_collection) >= _REMEMBERED:
            self._policy = policy
            self._of_a_collection.clear()
        known = self._of_a_collection.get(path)
        if known is None:
            rule = policy.rule_for(GRPC, path + b"/" + _SOME)
            known = rule is not None and rule.collection is not None
            if len(path) <= _LONGEST_REMEMBERED:
                self._of_a_collection[path] = known
        return known


def status_of(denied: Denied) -> int:
    """The status of gRPC (README, "Who gets in")."""
    return _STATUS_OF.get(denied.reason, 7)


def _ruled(verdict: Allowed | Denied, ask: Ask, generation: Generation, wanted: Wanted | None) -> Ruling:
    """Whether that is the last word: for who is limited to collections the name matters."""
    credential = verdict.credential
    if wanted is not None or credential is None or credential.limits.collections is None:
        return Ruling(_seen(verdict, wanted, generation), ask, generation)
    rule = generation.policy.rule_for(GRPC, ask.path)
    depends = isinstance(verdict, Allowed) or verdict.reason is Reason.COLLECTION_NOT_ALLOWED
    if rule is None or rule.collection is None or not depends:
        return Ruling(_seen(verdict, None, generation), ask, generation)
    otherwise = Allowed(Reason.KEY, credential, verdict.needed)
    method = ask.path.rpartition(b"/")[0].decode()
    wanted = Wanted(_FIELD, method, generation.policy.messages if rule.lookup else None)
    needs = NeedsCollection(otherwise, counted=isinstance(verdict, Allowed), wanted=wanted)
    return Ruling(needs, ask, generation)


def _seen(verdict: Allowed | Denied, wanted: Wanted | None, generation: Generation) -> Allowed | Denied:
    """What depends on further collections is let in where they are being looked for, as this policy says."""
    if isinstance(verdict, Denied) or not verdict.lookups:
        return verdict
    if wanted is not None and wanted.layouts == generation.policy.messages and wanted.kind in wanted.layouts:
        return verdict
    message = "Forbidden: the message may name further collections, which can't be seen"
    return Denied(Reason.BODY_NOT_JUDGED, message, verdict.credential, verdict.needed)
