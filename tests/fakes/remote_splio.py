"""A Splio that is far away: it has a truth of its own, and its answers may get lost."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import orjson

from service.domain.effects import (
    EffectKey,
    Kind,
    Lane,
    Prerequisite,
    PrerequisiteKind,
    RenderedRequest,
)
from service.domain.errors import InDoubtError, LanePausedError, PermanentError, RetryableError
from service.domain.ports import (
    Accepted,
    AlreadyExists,
    Answer,
    CreditPage,
    Missing,
    OrderComparison,
    OrderMatch,
    Permit,
    UnknownCard,
)
from tests.fakes.clock import START_MS, FakeClock


class Fate(StrEnum):
    """What becomes of a request and of its answer."""

    ACCEPTED = "accepted"
    REPLY_LOST = "reply_lost"  # it takes effect, nobody hears of it
    LOST = "lost"  # time-out; it may take effect later
    FAILED = "failed"  # a 5xx or garbage; it takes no effect
    REFUSED_CONNECTION = "refused_connection"
    LIMITED = "limited"  # 429
    REJECTED = "rejected"  # a documented refusal
    UNDOCUMENTED = "undocumented"  # a refusal that nobody documented
    MISSING = "missing"  # an order names something that Splio does not know, a credit a card


# What an order is missing when it is missing something.
PREREQUISITE: Final = Prerequisite(PrerequisiteKind.CONTACT, "c1", "/data/contacts", b"{}")

# These show their sender that nothing took effect.
_HARMLESS: Final = frozenset(
    {Fate.REFUSED_CONNECTION, Fate.LIMITED, Fate.REJECTED, Fate.UNDOCUMENTED, Fate.MISSING}
)


class Reading(StrEnum):
    """How look-ups are answered."""

    PROMPT = "prompt"
    SLOW = "slow"  # with what was true when they came, once `answer_reading` says so
    FAILING = "failing"


@dataclass(slots=True, eq=False)
class Request:
    """
    A request that may take effect, from its coming until the end of time.

    If it takes effect Splio shows that by `shows_by_ms`, unless it was frozen on its way.
    `is_harmless`: its sender knows that nothing happened, because it `was_told` so, or because it
    asked when an effect would have shown.
    """

    number: int
    key: EffectKey
    kind: Kind
    shows_by_ms: int
    reply: asyncio.Future[Answer]
    visible_at_ms: int | None = None
    may_land: bool = True
    is_harmless: bool = False
    was_told: bool = False

    @property
    def has_landed(self) -> bool:
        return self.visible_at_ms is not None

    @property
    def is_pending(self) -> bool:
        return not self.reply.done()


@dataclass(slots=True, eq=False)
class ReadRequest:
    """A look-up under way: it is answered with what was visible when it came."""

    key: EffectKey
    asked_at_ms: int
    count: int
    released: asyncio.Future[bool]


class RemotePermit:
    """Leave to send; the remote Splio has no limits of its own."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane

    def hand_back(self) -> None:
        """Nothing to give back."""


def body_of(key: EffectKey) -> bytes:
    """The body by which the remote Splio knows an effect."""
    return orjson.dumps({"key": key})


@dataclass
class RemoteSplio:
    """
    The truth at Splio and every request that reached it. It ignores idempotency keys.

    `visible_after_s` is how long an effect may stay invisible; `lease_margin_s` how long after
    its deadline a request may still arrive. `on_request` is called with each before it is taken.
    """

    clock: FakeClock
    visible_after_s: Mapping[Kind, float]
    lease_margin_s: float
    on_request: Callable[[Request], None]
    reading: Reading = Reading.PROMPT
    is_healthy: bool = False  # answers everything at once
    requests: list[Request] = field(default_factory=list)
    readings: list[ReadRequest] = field(default_factory=list)
    foreign: set[EffectKey] = field(default_factory=set)
    frozen: set[EffectKey] = field(default_factory=set)
    _by_key: dict[EffectKey, list[Request]] = field(default_factory=lambda: defaultdict(list))

    # -- what tests ask and do

    def requests_of(self, key: EffectKey) -> list[Request]:
        return self._by_key.get(key, [])

    def landed(self, key: EffectKey) -> int:
        """How often the effect took place."""
        return sum(request.has_landed for request in self.requests_of(key))

    def pending(self) -> list[Request]:
        return [request for request in self.requests if request.is_pending]

    def land(self, request: Request, *, is_late: bool) -> None:
        """
        Let `request` take effect now, visible at once or as late as can be.

        What lands when it could no more be awaited was frozen on its way (DESIGN section 5,
        residual risk).
        """
        assert not request.has_landed and request.may_land
        now_ms = self.clock.now_ms()
        if request.kind is Kind.ORDER and self._exists(request.key):
            request.may_land = False
            return
        if now_ms > request.shows_by_ms:
            self.frozen.add(request.key)
        request.visible_at_ms = max(now_ms, request.shows_by_ms) if is_late else now_ms

    def answer(self, request: Request, fate: Fate, *, is_late: bool = False) -> None:
        """Answer a pending request; a fate that contradicts what happened becomes a time-out."""
        assert request.is_pending
        exists = request.kind is Kind.ORDER and self._exists(request.key)
        if fate in {Fate.ACCEPTED, Fate.REPLY_LOST} and not request.has_landed and not exists:
            self.land(request, is_late=is_late)
        if request.has_landed and fate not in {Fate.ACCEPTED, Fate.REPLY_LOST}:
            fate = Fate.REPLY_LOST
        if fate is not Fate.LOST:
            request.may_land = False
        if fate in _HARMLESS:
            request.was_told = self._proves_harmless(request, fate)
            # What a look-up proved absent is not put in doubt by a refusal that comes after it.
            request.is_harmless |= request.was_told
        if fate is Fate.ACCEPTED and not request.has_landed:
            request.was_told = request.is_harmless = True
            request.reply.set_result(AlreadyExists(400))
            return
        reply = _reply(request.kind, fate)
        if isinstance(reply, Exception):
            request.reply.set_exception(reply)
        else:
            request.reply.set_result(reply)

    def answer_reading(self, reading: ReadRequest, *, fails: bool) -> None:
        self.readings.remove(reading)
        reading.released.set_result(fails)

    def visible_credits(self) -> list[EffectKey]:
        return [
            key
            for key, requests in self._by_key.items()
            if requests[0].kind is Kind.EARN and self._visible(key)
        ]

    # -- the port

    async def permit(self, lane: Lane) -> Permit:
        return RemotePermit(lane)

    async def post_order(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Answer:
        assert permit.lane is Lane.SALES
        return await self._take(request, Kind.ORDER, deadline_s)

    async def credit(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Answer:
        assert permit.lane is Lane.OTHER
        assert request.idempotency_key is not None
        return await self._take(request, Kind.EARN, deadline_s)

    async def create(self, prerequisite: Prerequisite, *, traceparent: str) -> None:
        if self.reading is Reading.FAILING:
            raise RetryableError("connect_failed")

    async def compare_order(self, request: RenderedRequest, *, traceparent: str) -> OrderComparison:
        key = _key_of(request)
        if key in self.foreign:
            return OrderComparison(OrderMatch.DIFFERENT, "total_price")
        found = await self._read(key)
        return OrderComparison(OrderMatch.EQUAL if found else OrderMatch.ABSENT)

    async def complete_cart(self, request: RenderedRequest, *, traceparent: str) -> Answer:
        raise AssertionError("there are no carts here")

    async def count_credits(
        self, request: RenderedRequest, *, key: EffectKey, traceparent: str
    ) -> int:
        assert _key_of(request) == key
        return await self._read(key)

    async def list_credits(self, *, after: str | None) -> CreditPage:
        raise AssertionError("the slow reader does not run here")

    async def _take(self, rendered: RenderedRequest, kind: Kind, deadline_s: float) -> Answer:
        assert deadline_s > self.clock.monotonic_s(), "begun after its deadline"
        shows_after_s = deadline_s + self.lease_margin_s + self.visible_after_s[kind]
        request = Request(
            number=len(self.requests),
            key=_key_of(rendered),
            kind=kind,
            shows_by_ms=START_MS + round(shows_after_s * 1000),
            reply=asyncio.get_running_loop().create_future(),
        )
        self.on_request(request)
        self.requests.append(request)
        self._by_key[request.key].append(request)
        if self.is_healthy:
            self.answer(request, Fate.ACCEPTED)
        return await request.reply

    async def _read(self, key: EffectKey) -> int:
        asked_at_ms, count = self.clock.now_ms(), self._visible(key)
        if self.reading is Reading.FAILING:
            raise InDoubtError("timeout")
        if self.reading is Reading.SLOW:
            released: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self.readings.append(ReadRequest(key, asked_at_ms, count, released))
            if await released:
                raise InDoubtError("timeout")
        if not count:
            for request in self.requests_of(key):
                request.is_harmless |= asked_at_ms >= request.shows_by_ms
        return count

    def _visible(self, key: EffectKey) -> int:
        now_ms = self.clock.now_ms()
        return sum(
            request.visible_at_ms is not None and request.visible_at_ms <= now_ms
            for request in self.requests_of(key)
        )

    def _exists(self, key: EffectKey) -> bool:
        return key in self.foreign or self.landed(key) > 0

    def _proves_harmless(self, request: Request, fate: Fate) -> bool:
        """
        Whether this refusal shows that nothing happened.

        An undocumented one may mean that Splio has it already, if an earlier one was in doubt.
        """
        return fate is not Fate.UNDOCUMENTED or all(
            other.was_told for other in self.requests_of(request.key) if other is not request
        )


def _key_of(request: RenderedRequest) -> EffectKey:
    return EffectKey(orjson.loads(request.body)["key"])


def _reply(kind: Kind, fate: Fate) -> Answer | Exception:
    match fate:
        case Fate.ACCEPTED:
            return Accepted(201 if kind is Kind.ORDER else 202)
        case Fate.REPLY_LOST | Fate.LOST:
            return InDoubtError("timeout")
        case Fate.FAILED:
            return InDoubtError("server_error", status=502)
        case Fate.REFUSED_CONNECTION:
            return RetryableError("connect_failed")
        case Fate.LIMITED:
            return RetryableError("rate_limited", retry_after_s=3.0, status=429)
        case Fate.REJECTED:
            return PermanentError("refused", status=400)
        case Fate.UNDOCUMENTED:
            return LanePausedError("unknown_refusal", status=403)
        case Fate.MISSING if kind is Kind.EARN:
            return UnknownCard(404)
        case Fate.MISSING:
            return Missing(PREREQUISITE.kind, PREREQUISITE.name, 400)
