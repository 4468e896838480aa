"""Looking up: nothing in doubt is sent again before Splio was asked."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from consumers.book_points import BookPoints
from consumers.look_up import LookUps
from consumers.post_order import PostOrder
from service.domain.effects import Kind, State
from service.domain.errors import (
    InDoubtError,
    LanePausedError,
    NotFoundError,
    PermanentError,
    RelayError,
    RetryableError,
    WrongStateError,
)
from service.domain.ledger import LookUpVerdict
from service.domain.ports import CreditPage, Operation, OrderComparison, OrderMatch, Step
from service.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock
from tests.fakes.duty import FakeDuty
from tests.fakes.ledger import FakeLedger, Row
from tests.fakes.metrics import value
from tests.fakes.splio import FakeSplio
from tests.fakes.waiting import settle_down, until
from tests.unit.builders import key_of, make_ready


class Bench:
    """The worker over its fakes."""

    def __init__(
        self, ledger: FakeLedger, splio: FakeSplio, clock: FakeClock, metrics: Metrics
    ) -> None:
        self.ledger, self.splio, self.clock, self.metrics = ledger, splio, clock, metrics
        self.in_doubt = asyncio.Event()
        self.steps: deque[Step] = deque()
        chance = random.Random(1)
        self.worker = LookUps(
            ledger,
            {
                Kind.ORDER: PostOrder(splio, clock),
                Kind.EARN: BookPoints(splio, clock, card_patience_s=1, random_=chance),
            },
            in_doubt=self.in_doubt,
            duty=FakeDuty(),
            clock=clock,
            metrics=metrics,
            step=self.steps.append,
            random_=chance,
        )

    def add_doubt(self, order_id: str = "1001", kind: Kind = Kind.EARN) -> Row:
        now_ms = self.clock.now_ms()
        return self.ledger.add(
            make_ready(order_id, kind),
            state=State.IN_DOUBT,
            was_in_doubt=True,
            attempt=1,
            first_attempt_at_ms=now_ms,
            absence_counts_from_ms=now_ms + 60_000,
            look_up_at_ms=now_ms,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        task = asyncio.create_task(self.worker.run(stop))
        try:
            yield
        finally:
            stop.set()
            await task

    async def next_round(self, seconds: float = 1.0) -> None:
        """Let the worker's pause and `seconds` pass, and the round after it end."""
        rounds = self.ledger.called["doubts"]
        await until(lambda: self.clock.sleeping)
        self.clock.advance(seconds)
        await until(lambda: self.ledger.called["doubts"] > rounds and self.clock.sleeping)

    def unanswered(self, kind: Kind = Kind.EARN, verdict: str = "unknown") -> float:
        return value(self.metrics, "relay_look_ups_total", effect=kind.value, verdict=verdict)


@pytest.fixture
def bench(ledger: FakeLedger, splio: FakeSplio, clock: FakeClock, metrics: Metrics) -> Bench:
    return Bench(ledger, splio, clock, metrics)


async def test_found_settles_the_effect_and_counts_its_points(bench: Bench) -> None:
    row = bench.add_doubt()
    bench.splio.answer(Operation.LIST_POINTS, 1)

    async with bench.running():
        await until(lambda: row.state is State.APPLIED)
        await until(lambda: bench.steps)

    assert value(bench.metrics, "relay_points_booked_total") == 177
    assert bench.unanswered(verdict="found") == 1
    assert list(bench.steps) == [Step.LOOK_UP_ANSWERED, Step.LOOK_UP_RECORDED]
    assert value(bench.metrics, "relay_suspected_doubles_total", effect="earn") == 0


async def test_found_twice_is_a_suspected_double(bench: Bench) -> None:
    row = bench.add_doubt()
    bench.splio.answer(Operation.LIST_POINTS, 2)

    async with bench.running():
        await until(lambda: row.state is State.APPLIED)

    assert value(bench.metrics, "relay_suspected_doubles_total", effect="earn") == 1


async def test_absence_is_asked_for_again_when_it_counts(bench: Bench) -> None:
    row = bench.add_doubt()

    async with bench.running():
        await until(lambda: bench.unanswered() == 1)
        for _ in range(58):
            await bench.next_round()
        assert row.state is State.IN_DOUBT
        assert bench.splio.count(Operation.LIST_POINTS) == 1
        await bench.next_round(2)
        await until(lambda: row.state is State.DUE)

    assert row.resends == 1
    assert bench.splio.count(Operation.LIST_POINTS) == 2


async def test_an_order_that_differs_is_a_dead_letter(bench: Bench) -> None:
    row = bench.add_doubt(kind=Kind.ORDER)
    bench.splio.answer(Operation.READ_ORDER, OrderComparison(OrderMatch.DIFFERENT, "total"))

    async with bench.running():
        await until(lambda: row.state is State.REJECTED)

    made = "relay_dead_letters_total"
    assert value(bench.metrics, made, consumer="dispatcher", reason="mismatch") == 1


@pytest.mark.parametrize(
    "error",
    [
        RetryableError("not_connected"),
        InDoubtError("no_reply"),
        LanePausedError("unknown_refusal"),
        PermanentError("refused"),
    ],
)
async def test_nothing_is_assumed_while_splio_does_not_answer(
    bench: Bench, error: RelayError
) -> None:
    """P4. It is asked for as long as it takes, ever more rarely."""
    row = bench.add_doubt()
    bench.splio.default[Operation.LIST_POINTS] = error

    async with bench.running():
        waits = []
        for number in range(1, 15):
            await until(lambda n=number: bench.unanswered() == n)  # type: ignore[misc]
            assert row.state is State.IN_DOUBT
            waits.append((row.look_up_at_ms - bench.clock.now_ms()) / 1_000)
            await bench.next_round(waits[-1] + 1)

    assert 0.5 <= waits[0] <= 1
    assert 450 <= waits[-1] <= 900


async def test_an_answer_begins_the_backoff_anew(bench: Bench) -> None:
    row = bench.add_doubt()
    bench.splio.answer(Operation.LIST_POINTS, *[RetryableError("not_connected")] * 4, 0)
    row.absence_counts_from_ms += 1_000_000

    async with bench.running():
        for number in range(1, 5):
            await until(lambda n=number: bench.unanswered() == n)  # type: ignore[misc]
            await bench.next_round((row.look_up_at_ms - bench.clock.now_ms()) / 1_000 + 1)
        await until(lambda: bench.unanswered() == 5)
        bench.splio.answer(Operation.LIST_POINTS, RetryableError("not_connected"))
        await bench.next_round((row.look_up_at_ms - bench.clock.now_ms()) / 1_000)
        await until(lambda: bench.unanswered() == 6)

    assert row.look_up_at_ms - bench.clock.now_ms() <= 1_000


async def test_a_lease_that_ran_out_is_a_doubt(bench: Bench) -> None:
    row = bench.ledger.add(make_ready(), state=State.ATTEMPTING, attempt=1)
    row.lease_until_ms = bench.clock.now_ms() + 30_000
    row.first_attempt_at_ms = bench.clock.now_ms()

    async with bench.running():
        await bench.next_round(29.9)
        assert row.state is State.ATTEMPTING
        bench.splio.answer(Operation.LIST_POINTS, 1)
        await bench.next_round()
        await until(lambda: row.state is State.APPLIED)


async def test_a_doubt_that_begins_now_is_looked_up_now(bench: Bench) -> None:
    async with bench.running():
        await until(lambda: bench.clock.sleeping)
        row = bench.add_doubt()
        bench.splio.answer(Operation.LIST_POINTS, 1)
        bench.in_doubt.set()

        await until(lambda: row.state is State.APPLIED)


async def test_a_few_are_looked_up_at_a_time(bench: Bench) -> None:
    for number in range(20):
        bench.add_doubt(str(number))
    bench.splio.go.clear()
    bench.splio.default[Operation.LIST_POINTS] = 1

    async with bench.running():
        await until(lambda: bench.splio.under_way)
        await settle_down()
        assert bench.splio.under_way == 4
        bench.splio.go.set()
        await until(lambda: bench.ledger.states() == {State.APPLIED: 20})


async def test_the_ledger_being_away_ends_nothing(bench: Bench) -> None:
    row = bench.add_doubt()
    bench.splio.default[Operation.LIST_POINTS] = 1
    bench.ledger.unavailable.update(expire_leases=1, doubts=1, record_look_up=1)

    async with bench.running():
        await bench.next_round()
        await bench.next_round()
        assert row.state is State.IN_DOUBT
        await bench.next_round()
        await until(lambda: row.state is State.APPLIED)


async def test_stop_cuts_a_look_up_off_and_leaves_the_doubt(bench: Bench) -> None:
    row = bench.add_doubt()
    bench.splio.go.clear()

    async with bench.running():
        await until(lambda: bench.splio.under_way)

    assert bench.splio.under_way == 0
    assert row.state is State.IN_DOUBT


async def test_a_bug_in_a_handler_ends_the_worker(bench: Bench) -> None:
    bench.add_doubt()
    bench.splio.answer(Operation.LIST_POINTS, CreditPage((), None, is_last=True))

    with pytest.raises(ExceptionGroup):
        await bench.worker.run(asyncio.Event())


async def test_an_operator_has_one_looked_up_at_once(bench: Bench) -> None:
    row = bench.add_doubt()
    row.look_up_at_ms += 3_600_000
    bench.splio.answer(Operation.LIST_POINTS, 1)

    assert await bench.worker.look_up_now(key_of("1001")) is LookUpVerdict.FOUND
    assert row.state is State.APPLIED


async def test_an_operator_is_told_what_cannot_be_looked_up(bench: Bench) -> None:
    bench.ledger.add(make_ready("1"))
    bench.add_doubt("2")
    bench.splio.answer(Operation.LIST_POINTS, RetryableError("not_connected"))

    with pytest.raises(NotFoundError):
        await bench.worker.look_up_now(key_of("9"))
    with pytest.raises(WrongStateError, match="main:earn:1 is due"):
        await bench.worker.look_up_now(key_of("1"))
    with pytest.raises(RetryableError):
        await bench.worker.look_up_now(key_of("2"))


async def test_an_effect_that_moved_meanwhile_is_not_counted(bench: Bench) -> None:
    row = bench.add_doubt(kind=Kind.ORDER)
    bench.splio.go.clear()
    bench.splio.answer(Operation.READ_ORDER, OrderComparison(OrderMatch.DIFFERENT))

    async with bench.running():
        await until(lambda: bench.splio.under_way)
        row.state = State.APPLIED  # a late success settled it
        bench.splio.go.set()
        await until(lambda: Step.LOOK_UP_RECORDED in bench.steps)

    assert row.state is State.APPLIED
    made = "relay_dead_letters_total"
    assert value(bench.metrics, made, consumer="dispatcher", reason="mismatch") == 0


async def test_points_of_an_effect_that_moved_meanwhile_are_counted_once(bench: Bench) -> None:
    row = bench.add_doubt()
    bench.splio.go.clear()
    bench.splio.answer(Operation.LIST_POINTS, 1)

    async with bench.running():
        await until(lambda: bench.splio.under_way)
        row.state = State.APPLIED  # by its late success, which counted them
        bench.splio.go.set()
        await until(lambda: Step.LOOK_UP_RECORDED in bench.steps)

    assert value(bench.metrics, "relay_points_booked_total") == 0
