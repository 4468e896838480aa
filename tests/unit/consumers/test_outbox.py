"""The outbox publisher: at least once, in order by order, and nothing blocks all the rest."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from consumers.outbox import BATCH, MAX_KEPT_BACK, OutboxPublisher
from producers.notices import read_outcome
from service.domain.effects import State
from service.domain.errors import LogUnavailableError, PermanentError, RelayError
from service.domain.ports import Step, no_step
from service.domain.records import PublicRecord, PublicTopic
from service.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock
from tests.fakes.duty import FakeDuty
from tests.fakes.metrics import value
from tests.fakes.outbox import FakeOutboxLedger, FakePublicLog
from tests.fakes.waiting import settle_down, until
from tests.unit.builders import make_dead_letter_notice, make_outcome

AGAIN_S = 300.0


class KilledError(Exception):
    """The process died at a step."""


class Bench:
    """A publisher over fakes; `ledger`, `log` and `clock` outlive its runs."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ledger = FakeOutboxLedger()
        self.log = FakePublicLog()
        self.duty = FakeDuty()
        self.metrics = Metrics(CollectorRegistry())
        self.steps: list[Step] = []

    def publisher(self, step: Callable[[Step], None] | None = None) -> OutboxPublisher:
        return OutboxPublisher(
            self.ledger,
            self.log,
            duty=self.duty,
            tenant="main",
            clock=self.clock,
            metrics=self.metrics,
            step=step or self.steps.append,
            chance=lambda: 0.0,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        task = asyncio.create_task(self.publisher().run(stop))
        try:
            yield
        finally:
            stop.set()
            await task

    async def die_at(self, step: Step) -> None:
        """Run until the process is killed at `step`."""

        def die(at: Step) -> None:
            if at is step:
                raise KilledError

        with pytest.raises(KilledError):
            await self.publisher(die).run(asyncio.Event())

    async def resting(self) -> None:
        """Wait until the publisher sleeps."""
        await settle_down(5)
        await until(lambda: self.clock.sleeping)

    async def pass_time(self, seconds: float, *, pace_s: float = 1.0) -> None:
        """Let time pass, at most a round of the publisher at a time."""
        end_s = self.clock.monotonic_s() + seconds
        while self.clock.monotonic_s() < end_s:
            await self.resting()
            self.clock.advance(pace_s)
        await self.resting()

    def published(self) -> list[tuple[str | None, str]]:
        """Order and outcome of what is on the outcomes topic."""
        return [
            (record.key, read_outcome(record.value).outcome.value)
            for record in self.log.records
            if record.topic is PublicTopic.OUTCOMES
        ]

    def orders(self) -> list[str | None]:
        return [record.key for record in self.log.records]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def refusing(*order_ids: str) -> Callable[[PublicRecord], RelayError | None]:
    return lambda record: PermanentError("too_large") if record.key in order_ids else None


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


async def test_notices_are_published_in_order_and_then_removed(bench: Bench) -> None:
    bench.ledger.add(make_outcome("1"), make_outcome("2"), make_dead_letter_notice(None))

    async with bench.running():
        await bench.resting()

    assert [(record.topic, record.key) for record in bench.log.records] == [
        (PublicTopic.OUTCOMES, "1"),
        (PublicTopic.OUTCOMES, "2"),
        (PublicTopic.DEAD_LETTERS, None),
    ]
    assert bench.ledger.entries == {}
    assert bench.log.calls == [3]
    assert bench.steps == [Step.OUTBOX_READ, Step.OUTBOX_PUBLISHED, Step.OUTBOX_REMOVED]
    name = "relay_notices_published_total"
    assert value(bench.metrics, name, topic="loyalty.outcomes.v1") == 2
    assert value(bench.metrics, name, topic="loyalty.dead-letters.v1") == 1


async def test_an_empty_outbox_is_read_once_a_second(bench: Bench) -> None:
    async with bench.running():
        await bench.pass_time(10)

    assert len(bench.ledger.limits) == 11
    assert bench.steps == []


async def test_a_backlog_is_published_without_waiting(bench: Bench) -> None:
    bench.ledger.add(*(make_outcome(str(number)) for number in range(2 * BATCH + 1)))

    async with bench.running():
        await bench.resting()

    assert bench.clock.monotonic_s() == 0
    assert bench.log.calls == [BATCH, BATCH, 1]
    assert bench.orders() == [str(number) for number in range(2 * BATCH + 1)]


@pytest.mark.parametrize(
    ("step", "times"),
    [(Step.OUTBOX_READ, 1), (Step.OUTBOX_PUBLISHED, 2), (Step.OUTBOX_REMOVED, 1)],
)
async def test_killed_publisher_loses_no_notice(bench: Bench, step: Step, times: int) -> None:
    """Killed between publishing and removing, it publishes again, the same bytes."""
    bench.ledger.add(make_outcome("1"), make_outcome("2"))

    await bench.die_at(step)
    async with bench.running():
        await bench.resting()

    assert bench.orders() == ["1", "2"] * times
    assert len({record.value for record in bench.log.records}) == 2
    assert bench.ledger.entries == {}


async def test_a_log_that_is_away_is_waited_for(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is woken for an outage that passes."""
    caplog.set_level(logging.INFO, "relay.outbox")
    bench.log.script.extend([LogUnavailableError("no_answer")] * 2)
    bench.ledger.add(make_outcome("1"))

    async with bench.running():
        await bench.resting()
        assert bench.ledger.entries and not bench.log.records
        await bench.pass_time(5)

    assert bench.orders() == ["1"]
    assert bench.ledger.entries == {}
    assert bench.log.calls == [1, 1, 1]
    assert messages(caplog, logging.WARNING) == ["outbox.not_published"] * 2
    assert messages(caplog, logging.INFO) == ["outbox.recovered"]
    assert messages(caplog, logging.ERROR) == []


async def test_an_outage_that_lasts_is_told_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.log.script.extend([LogUnavailableError("no_answer")] * 1000)
    bench.ledger.add(make_outcome("1"))

    async with bench.running():
        await bench.pass_time(600)
        tries = len(bench.log.calls)
        bench.log.script.clear()
        await bench.pass_time(30)

    assert messages(caplog, logging.ERROR) == ["outbox.stuck"]
    assert 600 / 30 <= tries <= 60, "it waits longer and longer, but not for ever"
    assert bench.orders() == ["1"]


async def test_the_log_may_ask_for_a_longer_wait(bench: Bench) -> None:
    bench.log.script.append(LogUnavailableError("full", retry_after_s=20))
    bench.ledger.add(make_outcome("1"))

    async with bench.running():
        await bench.pass_time(19)
        assert bench.log.calls == [1]
        await bench.pass_time(1)
        assert bench.log.calls == [1, 1]


async def test_a_ledger_that_is_away_is_waited_for(bench: Bench) -> None:
    bench.ledger.unavailable["outbox"] = 2
    bench.ledger.add(make_outcome("1"))

    async with bench.running():
        await bench.pass_time(10)

    assert bench.orders() == ["1"]


async def test_what_the_ledger_could_not_remove_is_removed_later_and_not_published_again(
    bench: Bench,
) -> None:
    bench.ledger.unavailable["remove_published"] = 3
    bench.ledger.add(make_outcome("1"))

    async with bench.running():
        await bench.pass_time(20)

    assert bench.orders() == ["1"]
    assert bench.ledger.entries == {}


async def test_refused_notice_blocks_no_other_order(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.log.refuses = refusing("2")
    ids = bench.ledger.add(*(make_outcome(each) for each in ("1", "2", "3")))

    async with bench.running():
        await bench.pass_time(3)
        bench.ledger.add(make_outcome("4"))
        await bench.pass_time(3)

    assert set(bench.orders()) == {"1", "3", "4"}
    assert list(bench.ledger.entries) == [ids[1]]
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert error.getMessage() == "notice.refused"
    fields: dict[str, Any] = vars(error)
    assert (fields["reason"], fields["order_id"], fields["notice"]) == ("too_large", "2", ids[1])
    assert fields["topic"] == "loyalty.outcomes.v1"


@pytest.mark.parametrize("is_later", [False, True], ids=["with it", "later"])
async def test_notices_behind_a_refused_one_of_their_order_wait_for_it(
    bench: Bench, is_later: bool
) -> None:
    """Order by order id, also through a refusal; whether they are read with it or later."""

    def refuse(record: PublicRecord) -> RelayError | None:
        is_refused = b'"outcome":"rejected"' in record.value
        return PermanentError("too_large") if is_refused else None

    bench.log.refuses = refuse
    bench.ledger.add(make_outcome("2", outcome=State.REJECTED), make_outcome("1"))

    async with bench.running():
        if is_later:
            await bench.pass_time(2)
        bench.ledger.add(make_outcome("2"), make_outcome("3"))
        await bench.pass_time(2)
        assert set(bench.orders()) == {"1", "3"}
        bench.log.refuses = refusing()
        await bench.pass_time(AGAIN_S)

    assert [each for each in bench.published() if each[0] == "2"] == [
        ("2", "rejected"),
        ("2", "applied"),
    ]
    assert bench.ledger.entries == {}


async def test_refused_notice_is_tried_again_now_and_then_and_told_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.log.refuses = refusing("2")
    bench.ledger.add(make_outcome("2"))

    async with bench.running():
        await bench.pass_time(3 * AGAIN_S + 10)

    assert messages(caplog, logging.ERROR) == ["notice.refused"]
    assert len(bench.log.calls) == 2 * (1 + 3), "a batch, then singly; at once and three times"


async def test_dead_letters_go_on_while_the_outcomes_topic_refuses(bench: Bench) -> None:
    def refuse(record: PublicRecord) -> RelayError | None:
        is_refused = record.topic is PublicTopic.OUTCOMES
        return PermanentError("not_authorised") if is_refused else None

    bench.log.refuses = refuse
    bench.ledger.add(*(make_outcome(str(number)) for number in range(BATCH)))
    bench.ledger.add(make_dead_letter_notice("1"), make_dead_letter_notice(None))

    async with bench.running():
        await bench.pass_time(2)

    assert {record.topic for record in bench.log.records} == {PublicTopic.DEAD_LETTERS}
    assert set(bench.orders()) == {"1", None}


async def test_what_is_kept_back_is_bounded(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.log.refuses = lambda record: PermanentError("not_authorised")
    bench.ledger.add(*(make_outcome(str(number)) for number in range(3 * MAX_KEPT_BACK)))

    async with bench.running():
        await bench.pass_time(20)
        assert max(bench.ledger.limits) == MAX_KEPT_BACK + BATCH
        assert messages(caplog, logging.ERROR).count("outbox.blocked") == 1
        bench.log.refuses = refusing()
        await bench.pass_time(AGAIN_S)

    assert bench.ledger.entries == {}


async def test_a_log_that_fails_while_refusals_are_sought_keeps_what_was_acknowledged(
    bench: Bench,
) -> None:
    bench.log.script.extend([PermanentError("too_large"), None, LogUnavailableError("no_answer")])
    bench.ledger.add(*(make_outcome(str(number)) for number in range(4)))

    async with bench.running():
        await bench.pass_time(5)

    assert bench.orders() == ["0", "1", "0", "1", "2", "3"]
    assert bench.ledger.entries == {}


async def test_only_the_process_with_the_duty_publishes(bench: Bench) -> None:
    bench.duty.is_held = False
    bench.ledger.add(make_outcome("1"))

    async with bench.running():
        await bench.pass_time(5)
        assert (bench.log.calls, bench.ledger.limits) == ([], [])
        bench.duty.is_held = True
        await bench.pass_time(1)

    assert bench.orders() == ["1"]
    assert bench.duty.asked >= 6, "before each round"


async def test_stop_ends_a_search_for_refusals_with_the_notice_in_hand(bench: Bench) -> None:
    stop = asyncio.Event()
    bench.log.refuses = refusing("9")
    bench.ledger.add(*(make_outcome(str(number)) for number in range(10)))
    bench.log.on_call = lambda: stop.set() if len(bench.log.calls) == 3 else None

    await bench.publisher(no_step).run(stop)

    assert bench.log.calls == [10, 1, 1]
    assert len(bench.ledger.entries) == 8


async def test_stop_ends_a_round_of_many_batches_after_the_one_in_hand(bench: Bench) -> None:
    stop = asyncio.Event()
    orders = [str(number) for number in range(2 * BATCH)]
    bench.log.refuses = refusing(*orders)
    bench.ledger.add(*(make_outcome(each) for each in orders))
    task = asyncio.create_task(bench.publisher(no_step).run(stop))
    await bench.pass_time(5)
    bench.log.refuses = refusing()
    bench.log.on_call = stop.set

    bench.clock.advance(AGAIN_S)
    await task

    assert bench.orders() == orders[:BATCH]
    assert len(bench.ledger.entries) == BATCH


@given(st.data())
async def test_any_failures_keep_the_order_of_each_order_and_lose_nothing(
    data: st.DataObject,
) -> None:
    """Repeats aside, each order's notices are read in the order they were written."""
    bench = Bench()
    orders = data.draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
    notices = [make_outcome(order, attempt=place) for place, order in enumerate(orders)]
    failures = st.sampled_from(
        [None, LogUnavailableError("no_answer"), PermanentError("refused"), KilledError]
    )
    ends = data.draw(st.lists(failures, max_size=12))
    bench.ledger.add(*notices)
    deaths = sum(each is KilledError for each in ends)
    bench.log.script.extend(each for each in ends if not isinstance(each, type))

    for _ in range(deaths):
        await _die_once_published(bench)
    async with bench.running():
        await bench.pass_time(4 * AGAIN_S, pace_s=30)

    assert bench.ledger.entries == {}
    for order in set(orders):
        attempts = [
            orjson.loads(record.value)["attempt"]
            for record in bench.log.records
            if record.key == order
        ]
        first_seen = list(dict.fromkeys(attempts))
        assert first_seen == [place for place, each in enumerate(orders) if each == order]


async def _die_once_published(bench: Bench) -> None:
    """Run until something was published, and die before it is removed, or come to rest."""

    def die(at: Step) -> None:
        if at is Step.OUTBOX_PUBLISHED:
            raise KilledError

    task = asyncio.create_task(bench.publisher(die).run(asyncio.Event()))
    await until(lambda: task.done() or bench.clock.sleeping)
    if not task.done():
        task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or isinstance(task.exception(), KilledError)
