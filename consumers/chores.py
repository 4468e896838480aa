"""Chores: purge, trim, watch the disk and the event loop, and tell the metrics."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import astuple
from typing import Any, Final, Protocol

from consumers.duties import Duty
from consumers.stopping import pause
from service.domain.clock import SteadyClock
from service.domain.effects import OPEN_STATES, Kind
from service.domain.errors import LedgerUnavailableError, RelayError
from service.domain.ledger import ChoreLedger, PlanLedger
from service.domain.ports import EventLog, Step, StepHook
from service.telemetry.metrics import Metrics

_EVERY_S: Final = 1.0
_TALLY_EVERY: Final = 5  # rounds between two tallies
_TIDY_ROUNDS: Final = 60  # from one purge to the next
_BITE: Final = 500  # rows a purge or trim removes at once, so that others are not held up
_DRIFT_ALARM_S: Final = 2.0

logger = logging.getLogger("relay.chores")


class ChoreRunnerLedger(ChoreLedger, PlanLedger, Protocol):
    """The parts of the ledger that chores use."""


class Chores:
    """
    The worker for what must happen now and then; each chore is small and may fail alone. A process
    that only receives has no ledger, and no duty.

    `on_storage` is told when room on disk falls below `reserve_bytes` or comes back: webhooks
    are refused and claiming stops while there is still room for outcomes.
    """

    name = "chores"

    def __init__(
        self,
        log: EventLog,
        ledger: ChoreRunnerLedger | None,
        *,
        duty: Duty | None,
        observe: Callable[[], None],
        on_storage: Callable[[bool], None],
        on_ledger: Callable[[bool], None] = lambda away: None,
        reserve_bytes: int,
        clock: SteadyClock,
        metrics: Metrics,
        step: StepHook,
        every_s: float = _EVERY_S,
        tidy_rounds: int = _TIDY_ROUNDS,
    ) -> None:
        self._log = log
        self._ledger = ledger
        self._duty = duty
        self._observe = observe
        self._on_storage = on_storage
        self._on_ledger = on_ledger
        self._reserve_bytes = reserve_bytes
        self._clock = clock
        self._metrics = metrics
        self._step = step
        self._every_s = every_s
        self._tidy_rounds = tidy_rounds
        self._storage_low = False
        self._drifted = False

    async def run(self, stop: asyncio.Event) -> None:
        rounds = 0
        while not stop.is_set():
            self.check_storage()
            self._observe()
            if self._ledger is not None and rounds % _TALLY_EVERY == 0:
                await self._attempt(self._tally(self._ledger))
                await self._attempt(self._lag(self._ledger))
            if rounds % self._tidy_rounds == 0:
                await self._attempt(self._tidy(stop))
            rounds += 1
            due_s = self._clock.monotonic_s() + self._every_s
            await pause(stop, self._every_s)
            self._metrics.event_loop_lag.observe(max(0.0, self._clock.monotonic_s() - due_s))
            self._check_drift()

    async def _attempt(self, chore: Coroutine[Any, Any, None]) -> None:
        try:
            await chore
        except RelayError as error:
            logger.warning("chore.failed", extra={"reason": error.reason})

    def check_storage(self) -> None:
        """Compare the room left with the reserve and tell when that changed."""
        low = False
        ledger_free = self._ledger.free_bytes() if self._ledger is not None else None
        for store, free in (("log", self._log.free_bytes()), ("ledger", ledger_free)):
            if free is not None:
                self._metrics.disk_free.labels(store).set(free)
                low = low or free < self._reserve_bytes
        if low != self._storage_low:
            self._storage_low = low
            logger.log(
                logging.ERROR if low else logging.INFO,
                "storage.low" if low else "storage.recovered",
                extra={"reserve_bytes": self._reserve_bytes},
            )
            self._metrics.storage_full.set(low)
            self._on_storage(low)

    async def _tally(self, ledger: ChoreRunnerLedger) -> None:
        metrics = self._metrics
        try:
            tally = await ledger.tally()
        except LedgerUnavailableError:
            metrics.ledger_available.set(0)
            self._on_ledger(True)
            raise
        metrics.ledger_available.set(1)
        self._on_ledger(False)
        for kind in Kind:
            for state in OPEN_STATES:
                count = tally.open_effects.get((kind, state), 0)
                metrics.ledger_entries.labels(kind.value, state.value).set(count)
            metrics.oldest_open.labels(kind.value).set(tally.oldest_open_ms.get(kind, 0) / 1000)
        metrics.dead_letters_open.set(tally.open_dead_letters)
        metrics.unseen_credits.set(tally.unseen_credits)
        metrics.oldest_unseen.set((tally.oldest_unseen_ms or 0) / 1000)
        metrics.outbox_entries.set(tally.outbox)
        metrics.oldest_outbox.set((tally.oldest_outbox_ms or 0) / 1000)
        metrics.holds_open.set(tally.holds)
        metrics.held_points.set(tally.held_points)
        metrics.oldest_hold.set((tally.oldest_hold_ms or 0) / 1000)
        metrics.oldest_unshown_debit.set((tally.oldest_unshown_ms or 0) / 1000)
        metrics.collects_missing.set(tally.late_collects)

    async def _lag(self, ledger: ChoreRunnerLedger) -> None:
        ends = await self._log.end_positions()
        positions = await ledger.positions(list(ends))
        for stream, end in ends.items():
            lag = end - positions.get(stream, 0)
            self._metrics.consumer_lag.labels(stream.topic.value, str(stream.partition)).set(lag)

    async def _tidy(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            removed = await self._log.trim(limit=_BITE)
            if self._ledger is not None and self._duty is not None and await self._duty.held():
                report = await self._ledger.purge(limit=_BITE)
                self._step(Step.LEDGER_PURGED)
                removed = max(removed, *astuple(report))
            if removed < _BITE:
                return

    def _check_drift(self) -> None:
        drift_s = self._clock.drift_s()
        self._metrics.clock_drift.set(drift_s)
        drifted = abs(drift_s) > _DRIFT_ALARM_S
        if drifted and not self._drifted:
            logger.warning("clock.jumped", extra={"drift_s": round(drift_s, 3)})
        self._drifted = drifted
