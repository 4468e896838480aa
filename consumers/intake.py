"""Intake: reads records, plans their effects and writes both with the position in one commit."""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from consumers.brake import BrakeRule, DeadLetterBrake
from consumers.planner import RecordPlanner, set_aside
from consumers.stopping import first_of, once_available, pause
from service.domain.clock import Clock
from service.domain.effects import EffectKey, Kind, State
from service.domain.errors import (
    LedgerUnavailableError,
    LogUnavailableError,
    PermanentError,
    StartupError,
    WrongStateError,
)
from service.domain.ledger import (
    BrakeLedger,
    Disposition,
    PlanLedger,
    PlannedRecord,
    PlanResult,
    ReadyEffect,
)
from service.domain.planning import Reason
from service.domain.ports import EventLog, LogReader, Step, StepHook
from service.domain.records import Advance, Record, Stream
from service.telemetry.metrics import Metrics

BRAKE_NAME: Final = "intake"
_AT_ONCE: Final = 16  # records planned without a pause: one to two milliseconds
_BATCH: Final = 256  # records planned in one transaction: a few milliseconds of work
_WAIT_S: Final = 1.0  # how long a fetch waits for records before it looks around
_RETRY_S: Final = 1.0  # pause after the ledger or the log was away

logger = logging.getLogger("relay.intake")


class FreshEffects(Protocol):
    """Takes effects that are due the moment they were planned."""

    def offer(self, effects: Sequence[ReadyEffect]) -> None: ...


class IntakeLedger(PlanLedger, BrakeLedger, Protocol):
    """The parts of the ledger that intake uses."""


class Intake:
    """
    The worker that reads the log. A failed commit is tried again from the ledger's position.

    Effects that were planned are offered to the dispatcher at once; from the commit on the
    ledger owns them, so a slow effect never holds a stream up.
    """

    name = "intake"

    def __init__(
        self,
        log: EventLog,
        ledger: IntakeLedger,
        planner: RecordPlanner,
        dispatcher: FreshEffects,
        *,
        clock: Clock,
        metrics: Metrics,
        step: StepHook,
        brake_rule: BrakeRule | None,
    ) -> None:
        self._log = log
        self._ledger = ledger
        self._planner = planner
        self._dispatcher = dispatcher
        self._clock = clock
        self._metrics = metrics
        self._step = step
        self._brake = DeadLetterBrake(brake_rule)
        self._released = asyncio.Event()
        self._released.set()
        self._braked: str | None = None
        self._brake_at_s = 0.0  # when the brake was set or released here
        self._positions: dict[Stream, int] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Read and plan until `stop`; what was fetched last is finished first."""
        for brake in await once_available(stop, self._ledger.brakes) or ():
            if brake.lane == BRAKE_NAME:
                self._braked = brake.reason
                self._released.clear()
        reader = await self._open_reader(stop)
        if reader is None:
            return
        try:
            while not stop.is_set():
                await first_of(stop, self._released.wait())
                records = await once_available(
                    stop, lambda: reader.fetch(max_records=_BATCH, wait_s=_WAIT_S), every_s=_RETRY_S
                )
                if records:
                    self._step(Step.RECORDS_FETCHED)
                    await self._take(reader, records, stop)
        finally:
            await reader.close()

    async def _open_reader(self, stop: asyncio.Event) -> LogReader | None:
        """A reader as soon as the log lets one be opened; None when `stop` was set before."""
        while not stop.is_set():
            try:
                # Not cut short: what is opened half cannot be closed from here.
                return await self._log.open_reader(self._ask_positions)
            except (LogUnavailableError, LedgerUnavailableError) as error:
                logger.warning(
                    "records.not_fetched", extra={"reason": error.reason, "detail": error.detail}
                )
                await pause(stop, _RETRY_S)
        return None

    def describe(self) -> dict[str, object]:
        """One row for the list of lanes: intake can be braked too."""
        return {"lane": BRAKE_NAME, "braked": self._braked}

    async def _ask_positions(self, streams: Sequence[Stream]) -> Mapping[Stream, int]:
        """
        Where the ledger is.

        Raises: StartupError when it is behind what the log was told of it.
        """
        acknowledged = await self._log.acknowledged()
        refuse_behind(
            {stream: acknowledged.get(stream, 0) for stream in streams},
            await self._ledger.horizon(streams),
        )
        known = await self._ledger.positions(streams)
        for stream in streams:
            self._positions.pop(stream, None)
        self._positions.update(known)
        return known

    def release(self) -> None:
        """Go on after a person released the brake."""
        self._brake_at_s = self._clock.monotonic_s()
        self._brake.reset()
        self._braked = None
        self._released.set()

    def follow_brakes(self, brakes: Mapping[str, str], *, asked_at_s: float) -> None:
        """Brake or go on as the ledger said: another process, or an operator there, decided."""
        reason = brakes.get(BRAKE_NAME)
        if asked_at_s <= self._brake_at_s or (reason is None) is (self._braked is None):
            return
        if reason is None:
            self.release()
        else:
            self._braked = reason
            self._released.clear()

    async def _take(
        self, reader: LogReader, records: Sequence[Record], stop: asyncio.Event
    ) -> None:
        planned = []
        for number, record in enumerate(records, start=1):
            planned.append(self._planner.plan(record))
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)  # webhooks are answered in between
        self._step(Step.RECORDS_PLANNED)
        await self._record(reader, planned, stop)

    async def _record(
        self, reader: LogReader, planned: Sequence[PlannedRecord], stop: asyncio.Event
    ) -> bool:
        """Whether it was written; otherwise its streams are read again from where they were."""
        advances = self._advances([item.record for item in planned])
        try:
            results = await self._ledger.record_plans(planned, advances)
        except LedgerUnavailableError as error:
            logger.warning("records.not_recorded", extra={"reason": error.reason})
            await reader.seek({advance.stream: advance.from_position for advance in advances})
            await pause(stop, _RETRY_S)
            return False
        except WrongStateError as error:
            # Somebody else went on in this stream: take the ledger's word for where it is.
            logger.warning("records.position_moved", extra={"reason": error.reason})
            # A stream that the ledger does not know goes on where this batch began.
            begun = {each.stream: each.from_position for each in advances}
            known = await once_available(stop, lambda: self._ask_positions(list(begun)))
            await reader.seek({**begun, **(known or {})})
            return False
        except PermanentError as error:
            return await self._record_apart(reader, planned, error, stop)
        self._step(Step.PLANS_COMMITTED)
        self._positions.update({each.stream: each.to_position for each in advances})
        for result in results:
            if result.fresh:
                self._dispatcher.offer(result.fresh)
        try:
            await reader.acknowledge({each.stream: each.to_position for each in advances})
        except LogUnavailableError as error:
            # Only lag displays and trimming depend on it; the next batch tells again.
            logger.warning("records.not_acknowledged", extra={"reason": error.reason})
        await self._account(planned, results, stop)
        return True

    async def _record_apart(
        self,
        reader: LogReader,
        planned: Sequence[PlannedRecord],
        error: PermanentError,
        stop: asyncio.Event,
    ) -> bool:
        """One record's plan can never be written: it becomes a dead letter, the others do not."""
        if len(planned) == 1:
            (item,) = planned
            if item.plan.dead_letter is Reason.PLANNING_FAILED:
                raise error  # not even its bytes can be kept
            return await self._record(reader, [set_aside(item.record, detail=str(error))], stop)
        read_again: set[Stream] = set()
        for item in planned:
            stream = item.record.stream
            if stream not in read_again and not await self._record(reader, [item], stop):
                read_again.add(stream)
        return not read_again

    def _advances(self, records: Sequence[Record]) -> list[Advance]:
        # A log may skip offsets, so where a stream was is the ledger's word, not the offset read.
        advances: dict[Stream, Advance] = {}
        for record in records:
            stream = record.stream
            begun = advances.get(stream)
            start = begun.from_position if begun else self._positions.get(stream, record.offset)
            advances[stream] = Advance(stream, start, record.offset + 1)
        return list(advances.values())

    async def _account(
        self,
        planned: Sequence[PlannedRecord],
        results: Sequence[PlanResult],
        stop: asyncio.Event,
    ) -> None:
        metrics = self._metrics
        dispositions = Counter(result.disposition for result in results)
        for disposition, count in dispositions.items():
            metrics.records_consumed.labels("intake", disposition.value).inc(count)
        kinds: Counter[Kind] = Counter()
        braked = None
        for item, result in zip(planned, results, strict=True):
            plan = item.plan
            reason: Reason | None = plan.dead_letter
            if result.disposition is Disposition.CONFLICT:
                reason = Reason.CONFLICT
            elif plan.ignored is not None:
                metrics.events_ignored.labels(plan.ignored.value).inc()
            elif result.disposition is Disposition.PLANNED:
                metrics.points_elsewhere.inc(plan.points_elsewhere)
                kinds.update(effect.kind for effect in plan.effects)
                for effect in plan.effects:
                    if effect.state is State.REJECTED:
                        metrics.dead_letters.labels("intake", effect.reason).inc()
                        _log_set_aside(item, "record.dead_lettered", effect.reason, effect.key)
                    elif effect.state is State.HELD:
                        _log_set_aside(item, "effect.held", effect.reason, effect.key)
            if reason is not None and result.disposition is not Disposition.REPEATED:
                metrics.dead_letters.labels("intake", reason.value).inc()
                _log_set_aside(item, "record.dead_lettered", reason.value)
            braked = self._brake.note(rejected=reason is Reason.PLANNING_FAILED) or braked
        for kind, count in kinds.items():
            metrics.effects_planned.labels(kind.value).inc(count)
        if braked is not None and self._released.is_set():
            self._braked = braked
            self._brake_at_s = math.inf  # until the ledger knows it
            self._released.clear()
            logger.error("lane.braked", extra={"lane": BRAKE_NAME, "reason": braked})
            await self._store_brake(braked, stop)
            self._brake_at_s = self._clock.monotonic_s()

    async def _store_brake(self, reason: str, stop: asyncio.Event) -> None:
        while True:
            try:
                await self._ledger.set_brake(BRAKE_NAME, reason)
            except LedgerUnavailableError as error:
                logger.error("brake.not_recorded", extra={"reason": error.reason})
                if stop.is_set():
                    return  # the next run meets the same records and brakes again
                await pause(stop, _RETRY_S)
            else:
                return


def refuse_behind(acknowledged: Mapping[Stream, int], known: Mapping[Stream, int]) -> None:
    """
    Raises: StartupError `ledger_behind_log` when the ledger's horizon is before what the log was
    told: it was put back from a copy, or lost, and not recovered. Planned as if nothing had
    happened, its effects would be sent a second time.
    """
    behind = [
        f"{stream.topic.value}/{stream.partition} is at {known.get(stream, 0)}, was at {position}"
        for stream, position in acknowledged.items()
        if position > known.get(stream, 0)
    ]
    if behind:
        raise StartupError(
            "ledger_behind_log",
            f"{'; '.join(behind)}. The ledger was put back from a copy, or lost. Bring it right "
            "with `loyalty-relay recover --since TIME` (the time of the copy), then start again",
        )


def _log_set_aside(
    item: PlannedRecord, event: str, reason: str | None, effect: EffectKey | None = None
) -> None:
    logger.error(
        event,
        extra={
            "event_id": item.event_id,
            "event_type": item.event_type,
            "order_id": item.plan.order_key,
            "topic": item.record.stream.topic.value,
            "partition": item.record.stream.partition,
            "offset": item.record.offset,
            "reason": reason,
            "effect": effect,
        },
    )
