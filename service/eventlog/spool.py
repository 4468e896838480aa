"""The spool: an embedded log that stands in for the broker's while the broker is away."""

import asyncio
import logging
import random
import sqlite3
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

from service.domain.clock import Clock
from service.domain.errors import LogUnavailableError, PermanentError
from service.domain.ports import LogWriter, Step, StepHook, no_step
from service.domain.records import NewRecord, Record, Stream, Topic
from service.eventlog.forwarding import Refusal, send_in_order
from service.eventlog.set_aside import SetAside, size_of
from service.eventlog.sqlite import SqliteEventLog, open_sqlite_log
from service.eventlog.sqlite_reader import SqliteLogReader
from service.telemetry.metrics import Metrics

# Records in hand: the most that are sent at once, and that a crash sends again. To a target that
# answers after 5 ms, 256 drain at 17,000 records/s, 64 at 8,000 and 1024 at 28,000.
_BATCH: Final = 256
_ASIDE_BATCH: Final = 32
_RETRY_ASIDE_S: Final = 300.0
_MOMENT_S: Final = 0.25  # how long appends may wait for the way back
_BACKOFF_S: Final = 0.5
_BACKOFF_CAP_S: Final = 10.0  # an outage may be over any time, and one record asks
_MAX_DOUBLINGS: Final = 16
_FULL_RETRY_S: Final = 10.0
# What was forwarded goes at once, however the machine's clock was moved since it was appended.
_NO_RETENTION: Final = dict.fromkeys(Topic, -3650 * 86_400.0)

_MEASURE: Final = """
    SELECT coalesce(sum(length(value) + length(CAST(headers AS BLOB))), 0), min(appended_at_ms)
    FROM records
"""

logger = logging.getLogger("relay.spool")


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the spool's file holds when it is opened."""

    size_bytes: int
    oldest_ms: int


class SpoolingWriter:
    """
    A `LogWriter` in front of `target` and the worker that forwards what was spooled meanwhile.
    To be opened with `open_spooling_writer`.

        direct ──an append finds the target away──▶ spooling
        spooling ──everything was forwarded and nothing is on its way into the spool──▶ direct

    Order: while anything is in the spool, or on its way into it, no append goes to the target.
    Of two records of one key, the second appended after the first was acknowledged, the first
    arrives first. A record may arrive more than once.
    Refused for good: in direct mode the caller is told; a record that was spooled is set aside in
    the spool's file and tried again now and then.
    """

    name = "spool"

    def __init__(
        self,
        target: LogWriter,
        log: SqliteEventLog,
        reader: SqliteLogReader,
        set_aside: SetAside,
        stored: _Stored,
        *,
        limit_bytes: int,
        metrics: Metrics,
        clock: Clock,
        step: StepHook,
    ) -> None:
        self._target = target
        self._log = log
        self._reader = reader
        self._set_aside = set_aside
        self._limit_bytes = limit_bytes
        self._metrics = metrics
        self._clock = clock
        self._step = step
        self._random = random.Random()

        self._spooling = False
        self._entered = asyncio.Event()
        self._entered_at_s = 0.0
        self._era = 0  # how often it went back to direct
        self._gate = asyncio.Event()  # closed while appends wait for the way back
        self._gate.set()
        self._gate_keeper: asyncio.Task[None] | None = None

        self._size_bytes = stored.size_bytes  # in the spool and on the way into it
        self._forwarded_bytes = 0  # of these, forwarded but not removed yet
        self._oldest_ms = stored.oldest_ms
        self._forwarded = 0
        self._failures = 0  # of the target, in a row
        self._width = 1  # records sent at once: one as long as nobody knows whether it is back
        self._retry_aside_at_s = clock.monotonic_s()

        metrics.spooling.set(0)
        metrics.spool_records.set_function(lambda: log.records)
        metrics.spool_limit.set(limit_bytes)
        metrics.spool_bytes.set_function(lambda: self.size_bytes)
        metrics.spool_oldest.set_function(
            lambda: self._oldest_ms / 1000 if log.records else 0.0,
        )
        metrics.spool_set_aside.set_function(lambda: set_aside.records)
        if log.records:
            self._enter("not_empty")

    @property
    def is_spooling(self) -> bool:
        """Whether appends go to the spool."""
        return self._spooling

    @property
    def set_aside(self) -> int:
        """Records that the target refused for good and that wait here."""
        return self._set_aside.records

    @property
    def size_bytes(self) -> int:
        """What counts against the limit: values and headers, of what was set aside too."""
        return self._size_bytes + self._set_aside.size_bytes

    async def append(self, record: NewRecord) -> None:
        while True:
            while not self._gate.is_set():
                await self._gate.wait()
            # From here to the call of the one or the other log nothing is awaited.
            if self._spooling:
                await self._append_to_spool(record)
                return
            era = self._era
            try:
                await self._target.append(record)
            except LogUnavailableError as error:
                # What began before an outage that is over says nothing about now.
                if era == self._era:
                    self._enter(error.reason)
            else:
                self._failures = 0
                return

    async def _append_to_spool(self, record: NewRecord) -> None:
        size = size_of(record)
        if self.size_bytes + size > self._limit_bytes:
            raise LogUnavailableError(
                "spool_full", f"{self.size_bytes} bytes wait already", retry_after_s=_FULL_RETRY_S
            )
        if not self._log.records:
            self._oldest_ms = self._clock.now_ms()
        self._size_bytes += size
        try:
            await self._log.append(record)
        except (LogUnavailableError, PermanentError):
            self._size_bytes -= size
            raise
        self._step(Step.SPOOL_APPENDED)

    def _enter(self, reason: str) -> None:
        if self._spooling:
            return
        self._spooling = True
        self._entered.set()
        self._entered_at_s = self._clock.monotonic_s()
        self._forwarded = 0
        self._width = 1
        self._failures += reason != "not_empty"
        self._metrics.spooling.set(1)
        logger.warning("spool.entered", extra={"reason": reason, "records": self._log.records})

    def _leave(self) -> None:
        self._spooling = False
        self._entered.clear()
        self._era += 1
        self._metrics.spooling.set(0)
        duration_s = self._clock.monotonic_s() - self._entered_at_s
        logger.info(
            "spool.left",
            extra={"duration_s": round(duration_s, 3), "forwarded": self._forwarded},
        )
        self._step(Step.SPOOL_LEFT)

    # The worker

    async def run(self, stop: asyncio.Event) -> None:
        """Forward what is spooled until `stop`; what is in flight then is waited for."""
        await self._reader.seek(self._reader.acknowledged)  # what a run before had in hand
        while not stop.is_set():
            wait_s = self._retry_aside_at_s - self._clock.monotonic_s()
            if self._spooling:
                try:
                    await self._drain(stop)
                finally:
                    self._open_gate()
            elif wait_s <= 0:
                self._retry_aside_at_s += _RETRY_ASIDE_S - wait_s
                await self._tidy(stop)
            else:
                await _first_of(stop.wait(), self._entered.wait(), self._clock.sleep(wait_s))

    async def _drain(self, stop: asyncio.Event) -> None:
        """Forward until the spool is empty, then go back to direct."""
        if self._failures:
            await self._back_off(stop)
        while not stop.is_set():
            try:
                records = await self._reader.fetch(max_records=_BATCH, wait_s=0)
            except LogUnavailableError as error:
                await self._note_failure(error, stop)
                continue
            is_back = self._width > 1
            if is_back and not self._reader.behind:
                # Nearly there. Without this, appends could keep it from ever getting there.
                self._close_gate()
            if records:
                self._oldest_ms = min(record.appended_at_ms for record in records)
                if await self._forward(records, stop):
                    self._step(Step.SPOOL_FORWARDED)
                    await self._give_back(records)
            elif not self._log.waiting and not self._reader.behind:
                # The barrier: all that was ever spooled was forwarded, and nothing is awaited
                # between seeing that and switching over.
                self._leave()
                return
            else:
                with suppress(LogUnavailableError):
                    await self._log.commit(lambda _: None)  # ends after what waits now

    async def _forward(self, records: Sequence[Record], stop: asyncio.Event) -> bool:
        """Send `records` until each is at the target or set aside; False when stopped before."""
        left = list(records)
        while left:
            if stop.is_set():
                return False
            sending = await send_in_order(self._target, left[: self._width])
            self._forwarded += len(sending.forwarded)
            self._metrics.spool_forwarded.inc(len(sending.forwarded))
            failure = sending.failure
            left = sending.left + left[self._width :]
            if sending.refused:
                try:
                    await self._keep_aside(sending.refused)
                except LogUnavailableError as error:
                    failure = error
                    left = [refusal.record for refusal in sending.refused] + left
            if failure is None:
                self._failures = 0
                self._width = _BATCH
            else:
                await self._note_failure(failure, stop)
        return True

    async def _keep_aside(self, refusals: Sequence[Refusal]) -> None:
        await self._set_aside.add(refusals)
        for refusal in refusals:
            logger.error(
                "record.set_aside",
                extra={
                    "reason": refusal.reason,
                    "topic": refusal.record.stream.topic.value,
                    "partition": refusal.record.stream.partition,
                    "offset": refusal.record.offset,
                    "size_bytes": len(refusal.record.value),
                },
            )

    async def _give_back(self, records: Sequence[Record]) -> None:
        """Go on behind `records` for good, and give their room back."""
        await self._reader.acknowledge({record.stream: record.offset + 1 for record in records})
        self._forwarded_bytes += sum(size_of(record) for record in records)
        try:
            while await self._log.trim(limit=_BATCH):
                pass
        except LogUnavailableError as error:
            # The next time it is tried again; until then a restart would send them once more.
            logger.warning("spool.not_trimmed", extra={"reason": error.reason})
            return
        self._size_bytes -= self._forwarded_bytes
        self._forwarded_bytes = 0
        self._step(Step.SPOOL_ACKNOWLEDGED)

    async def _tidy(self, stop: asyncio.Event) -> None:
        """Try again what was set aside, and to give back what could not be given back."""
        if self._log.records:
            await self._give_back(())
        try:
            await self._retry_aside(stop)
        except LogUnavailableError as error:
            logger.warning("spool.not_retried", extra={"reason": error.reason})

    async def _retry_aside(self, stop: asyncio.Event) -> None:
        after = 0
        failure: LogUnavailableError | None = None
        while failure is None and not (stop.is_set() or self._spooling):
            batch = await self._set_aside.read(after=after, limit=_ASIDE_BATCH)
            if not batch:
                return
            after = batch[-1].id
            sending = await send_in_order(self._target, [kept.record for kept in batch])
            failure = sending.failure
            taken = [kept for kept in batch if kept.record in sending.forwarded]
            if taken:
                await self._set_aside.remove(taken)
                self._metrics.spool_forwarded.inc(len(taken))
                logger.info("record.taken_back", extra={"records": len(taken)})
        if failure is not None:
            raise failure

    async def _note_failure(self, error: LogUnavailableError, stop: asyncio.Event) -> None:
        self._open_gate()
        self._failures += 1
        self._width = 1
        logger.warning(
            "spool.waiting", extra={"reason": error.reason, "records": self._log.records}
        )
        await self._back_off(stop)

    async def _back_off(self, stop: asyncio.Event) -> None:
        ceiling = min(_BACKOFF_CAP_S, _BACKOFF_S * 2.0 ** min(self._failures, _MAX_DOUBLINGS))
        wait_s = ceiling * (0.5 + 0.5 * self._random.random())
        await _first_of(stop.wait(), self._clock.sleep(wait_s))

    def _close_gate(self) -> None:
        """Let appends wait, a moment at most."""
        if self._gate.is_set():
            self._gate.clear()
            self._gate_keeper = asyncio.create_task(self._open_gate_in_time(), name="spool-gate")

    async def _open_gate_in_time(self) -> None:
        await self._clock.sleep(_MOMENT_S)
        self._gate.set()

    def _open_gate(self) -> None:
        self._gate.set()
        if self._gate_keeper is not None:
            self._gate_keeper.cancel()
            self._gate_keeper = None


@asynccontextmanager
async def open_spooling_writer(
    target: LogWriter,
    path: Path,
    *,
    limit_bytes: int,
    metrics: Metrics,
    clock: Clock,
    step: StepHook = no_step,
) -> AsyncIterator[SpoolingWriter]:
    """
    The writer over `target` with its spool in the file at `path`, for this process alone.

    It has to be run as a worker too: without that nothing leaves the spool.
    Args:
        limit_bytes: of values and headers; beyond it appends raise LogUnavailableError.
    Raises: StartupError (in use, another kind of file, newer schema, not writable).
    """
    async with open_sqlite_log(
        path,
        metrics=Metrics(CollectorRegistry()),  # the commits and the queue are not the log's own
        clock=clock,
        step=step,
        partitions=1,
        retention_s=_NO_RETENTION,
    ) as log:
        # All that is in the file is to be forwarded: what was, was removed.
        reader = await log.open_reader(_from_the_beginning)
        stored = await log.commit(_measure)
        set_aside = await SetAside.open(log, clock)
        yield SpoolingWriter(
            target,
            log,
            reader,
            set_aside,
            stored,
            limit_bytes=limit_bytes,
            metrics=metrics,
            clock=clock,
            step=step,
        )


async def _from_the_beginning(_: Sequence[Stream]) -> Mapping[Stream, int]:
    return {}


def _measure(file: sqlite3.Connection) -> _Stored:
    size_bytes, oldest_ms = file.execute(_MEASURE).fetchone()
    return _Stored(size_bytes, oldest_ms or 0)


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Until the first of `waits` ends; the others are cancelled."""
    tasks = [asyncio.create_task(wait, name="spool-wait") for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
