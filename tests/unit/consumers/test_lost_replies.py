"""Dispatcher and look-ups together: whatever Splio answers, nothing is booked twice."""

import asyncio
import random
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from consumers.book_points import BookPoints
from consumers.look_up import LookUps
from consumers.post_order import PostOrder
from service.domain.effects import EffectKey, Kind, Lane, RenderedRequest, State
from service.domain.errors import InDoubtError, LanePausedError, RetryableError
from service.domain.ports import (
    Accepted,
    AlreadyExists,
    Answer,
    OrderComparison,
    OrderMatch,
    Permit,
)
from service.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock
from tests.fakes.duty import FakeDuty
from tests.fakes.ledger import FakeLedger
from tests.fakes.splio import FakeSplio
from tests.fakes.waiting import settle_down
from tests.unit.consumers.dispatching import Bench

VISIBLE_AFTER_S = 60.0
FAULTS = ["ok", "busy", "lost_request", "lost_reply", "slow_books", "unknown_refusal"]


@dataclass
class Books(FakeSplio):
    """
    A Splio that keeps books and loses requests and replies; it ignores idempotency keys.

    `faults` are used up one a request. What is booked shows at once, or, with `slow_books`,
    just before the time at which absence counts.
    """

    faults: list[str] = field(default_factory=list)
    look_up_faults: list[bool] = field(default_factory=list)
    shows_at_s: dict[bytes, list[float]] = field(default_factory=dict)

    async def post_order(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Answer:
        if request.body in self.shows_at_s:
            permit.hand_back()
            return AlreadyExists(400)
        return await self._book(request, permit)

    async def credit(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Answer:
        return await self._book(request, permit)

    async def _book(self, request: RenderedRequest, permit: Permit) -> Answer:
        permit.hand_back()
        self.on_request(request)
        await asyncio.sleep(0)
        fault = self.faults.pop() if self.faults else "ok"
        if fault == "busy":
            raise RetryableError("rate_limited", retry_after_s=1.0)
        if fault == "unknown_refusal":
            raise LanePausedError("unknown_refusal", status=418)
        if fault == "lost_request":
            raise InDoubtError("no_reply")
        delay_s = VISIBLE_AFTER_S - 1 if fault == "slow_books" else 0.0
        shows = self.shows_at_s.setdefault(request.body, [])
        shows.append(self.clock.monotonic_s() + delay_s)
        if fault in ("lost_reply", "slow_books"):
            raise InDoubtError("no_reply")
        return Accepted(202)

    async def compare_order(self, request: RenderedRequest, *, traceparent: str) -> OrderComparison:
        found = await self.count_credits(request, key=EffectKey(""), traceparent=traceparent)
        return OrderComparison(OrderMatch.EQUAL if found else OrderMatch.ABSENT)

    async def count_credits(
        self, request: RenderedRequest, *, key: EffectKey, traceparent: str
    ) -> int:
        await asyncio.sleep(0)
        if self.look_up_faults and self.look_up_faults.pop():
            raise RetryableError("not_connected")
        now_s = self.clock.monotonic_s()
        return sum(at_s <= now_s for at_s in self.shows_at_s.get(request.body, ()))


@settings(max_examples=60)
@given(
    faults=st.lists(st.sampled_from(FAULTS), max_size=25),
    look_up_faults=st.lists(st.booleans(), max_size=10),
    number=st.integers(1, 4),
)
@example(faults=["lost_request"] * 12, look_up_faults=[], number=2)
@example(faults=["slow_books"] * 8, look_up_faults=[True] * 5, number=4)
@example(faults=["unknown_refusal", "lost_reply"] * 6, look_up_faults=[], number=3)
def test_every_effect_is_booked_once_or_waits_for_a_person(
    faults: list[str], look_up_faults: list[bool], number: int
) -> None:
    """P2 and P4."""

    async def play() -> None:
        clock, metrics = FakeClock(), Metrics(CollectorRegistry())
        books = Books(clock, faults=list(faults), look_up_faults=list(look_up_faults))
        ledger = FakeLedger(clock, visible_after_s=VISIBLE_AFTER_S)
        bench = Bench(ledger, books, clock, metrics)
        dispatcher = bench.build(concurrency=2)
        chance, stop = random.Random(1), asyncio.Event()
        look_ups = LookUps(
            ledger,
            {
                Kind.ORDER: PostOrder(books, clock),
                Kind.EARN: BookPoints(books, clock, card_patience_s=1, random_=chance),
            },
            in_doubt=dispatcher.in_doubt,
            duty=FakeDuty(),
            clock=clock,
            metrics=metrics,
            step=lambda _: None,
            random_=chance,
        )
        running = asyncio.gather(dispatcher.run(stop), look_ups.run(stop))
        await settle_down(5)
        rows = [bench.plan(str(n), kind) for n in range(number) for kind in (Kind.ORDER, Kind.EARN)]
        for _ in range(2_000):
            await settle_down(20)
            if all(row.state in (State.APPLIED, State.DUPLICATE, State.HELD) for row in rows):
                break
            clock.advance(5)
        stop.set()
        await running

        for row in rows:
            times = len(books.shows_at_s.get(row.effect.request.body, ()))
            assert row.state in (State.APPLIED, State.DUPLICATE, State.HELD), row
            assert times == (row.state is not State.HELD), row
            assert row.effect.lane is Lane.OTHER or row.state is not State.HELD
        assert books.permits_out == 0

    asyncio.run(play())
