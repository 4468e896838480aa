"""Chores: storage, tally, lag, tidying, drift; each may fail alone."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from consumers.chores import Chores
from service.domain.clock import SteadyClock
from service.domain.effects import Kind, State
from service.domain.ledger import PurgeReport, Tally
from service.domain.ports import Step
from service.telemetry.metrics import Metrics
from tests.fakes.duty import FakeDuty
from tests.fakes.ledger import FakeLedger
from tests.fakes.log import FakeLog
from tests.fakes.metrics import value
from tests.fakes.waiting import until
from tests.unit.builders import STREAM, make_record

RESERVE = 1_000


class Bench:
    """The chores over their fakes."""

    def __init__(self, log: FakeLog, ledger: FakeLedger, metrics: Metrics) -> None:
        self.log, self.ledger, self.metrics = log, ledger, metrics
        self.told: list[bool] = []
        self.observed = 0
        self.steps: deque[Step] = deque()
        self.chores = Chores(
            log,
            ledger,
            duty=FakeDuty(),
            observe=self._observe,
            on_storage=self.told.append,
            reserve_bytes=RESERVE,
            clock=SteadyClock(),
            metrics=metrics,
            step=self.steps.append,
            every_s=0,
        )

    def _observe(self) -> None:
        self.observed += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        task = asyncio.create_task(self.chores.run(stop))
        try:
            yield
        finally:
            stop.set()
            await task

    async def round(self) -> None:
        """Wait for a whole round to pass."""
        before = self.observed
        await until(lambda: self.observed >= before + 2)


@pytest.fixture
def bench(log: FakeLog, ledger: FakeLedger, metrics: Metrics) -> Bench:
    return Bench(log, ledger, metrics)


@pytest.mark.parametrize(
    ("log_free", "ledger_free", "low"),
    [
        (RESERVE, RESERVE, False),
        (RESERVE - 1, RESERVE, True),
        (RESERVE, RESERVE - 1, True),
        (None, RESERVE, False),
        (RESERVE, None, False),
        (None, 0, True),
        (None, None, False),
    ],
)
def test_storage_is_low_where_either_is(
    bench: Bench, log_free: int | None, ledger_free: int | None, low: bool
) -> None:
    bench.log.free, bench.ledger.free = log_free, ledger_free

    bench.chores.check_storage()

    assert bench.told == ([True] if low else [])
    assert value(bench.metrics, "relay_storage_low") == low


def test_storage_is_told_once_each_way(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "relay.chores")
    for free in (5_000, 10, 20, 5_000, 6_000, 0):
        bench.log.free = free
        bench.chores.check_storage()

    assert bench.told == [True, False, True]
    assert [record.getMessage() for record in caplog.records] == [
        "storage.low",
        "storage.recovered",
        "storage.low",
    ]
    assert value(bench.metrics, "relay_disk_free_bytes", store="log") == 0


async def test_the_tally_becomes_metrics(bench: Bench) -> None:
    bench.ledger.tallied = Tally(
        open_effects={(Kind.EARN, State.DUE): 7, (Kind.ORDER, State.HELD): 1},
        oldest_open_ms={Kind.EARN: 1_800_000_000_500},
        open_dead_letters=3,
        unseen_credits=2,
        oldest_unseen_ms=1_700_000_000_000,
    )

    async with bench.running():
        await bench.round()

    metrics = bench.metrics
    assert value(metrics, "relay_ledger_entries", effect="earn", state="due") == 7
    assert value(metrics, "relay_ledger_entries", effect="order", state="held") == 1
    assert value(metrics, "relay_ledger_entries", effect="order", state="due") == 0
    oldest = "relay_oldest_open_timestamp_seconds"
    assert value(metrics, oldest, effect="earn") == 1_800_000_000.5
    assert value(metrics, oldest, effect="order") == 0
    assert value(metrics, "relay_dead_letters_open") == 3
    assert value(metrics, "relay_unseen_credits") == 2
    assert value(metrics, "relay_oldest_unseen_credit_timestamp_seconds") == 1_700_000_000


async def test_what_is_gone_is_counted_down(bench: Bench) -> None:
    bench.ledger.tallied = Tally({(Kind.EARN, State.DUE): 7}, {Kind.EARN: 1_000}, 1, 1, 1_000)

    async with bench.running():
        await bench.round()
        tallies = bench.ledger.called["tally"]
        bench.ledger.tallied = Tally({}, {}, 0, 0, None)
        await until(lambda: bench.ledger.called["tally"] > tallies)
        await bench.round()

    metrics = bench.metrics
    assert value(metrics, "relay_ledger_entries", effect="earn", state="due") == 0
    assert value(metrics, "relay_oldest_open_timestamp_seconds", effect="earn") == 0
    assert value(metrics, "relay_oldest_unseen_credit_timestamp_seconds") == 0


async def test_lag_is_what_the_ledger_has_not_planned(bench: Bench) -> None:
    bench.log.put(*(make_record(offset) for offset in range(10)))
    bench.ledger.at[STREAM] = 4

    async with bench.running():
        await bench.round()

    lag = value(
        bench.metrics, "relay_consumer_lag_records", topic=STREAM.topic.value, partition="0"
    )
    assert lag == 6


async def test_tidying_goes_on_while_bites_are_full(bench: Bench) -> None:
    bench.ledger.purges = [PurgeReport(attempts=500), PurgeReport(bodies=3), PurgeReport()]
    bench.log.trims = [0, 500, 7]

    async with bench.running():
        await bench.round()

    assert (bench.ledger.purges, bench.log.trims) == ([], [])
    assert list(bench.steps)[:3] == [Step.LEDGER_PURGED] * 3
    assert bench.ledger.called["purge"] == 3


async def test_a_chore_that_fails_holds_no_other_up(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.ledger.unavailable.update(tally=1, positions=1)
    bench.log.trims = [1]

    async with bench.running():
        await bench.round()

    assert bench.log.trims == []
    failed = [record for record in caplog.records if record.getMessage() == "chore.failed"]
    assert len(failed) == 2


async def test_a_jump_of_the_clock_is_told_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real_ns = time.time_ns
    async with bench.running():
        await bench.round()
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + 3_000_000_000)
        await bench.round()
        await bench.round()

    jumped = [record for record in caplog.records if record.getMessage() == "clock.jumped"]
    assert len(jumped) == 1
    assert value(bench.metrics, "relay_clock_drift_seconds") == pytest.approx(3, abs=0.5)
