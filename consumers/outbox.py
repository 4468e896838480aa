"""The outbox publisher: what was settled or set aside reaches the downstream topics."""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from consumers.backoff import backoff_s
from consumers.duties import Duty
from consumers.stopping import set_within
from producers.notices import NoticeWriter
from service.domain.clock import Clock
from service.domain.errors import LogUnavailableError, PermanentError, RelayError
from service.domain.notices import OutboxEntry, OutboxLedger
from service.domain.ports import PublicLog, Step, StepHook
from service.domain.records import PublicRecord, PublicTopic
from service.telemetry.metrics import Metrics

BATCH: Final = 200  # notices published and removed at once
# Notices that may be kept back at once. With more the log refuses a whole topic, and reading on
# would only fill the memory: the publisher waits for a person.
MAX_KEPT_BACK: Final = 1_000
_IDLE_S: Final = 1.0
_LONGEST_WAIT_S: Final = 30.0  # an outage has usually passed by then
_ALARM_AFTER_S: Final = 60.0  # a broker that restarts is back before
_REFUSED_AGAIN_S: Final = 300.0  # a person changes a permission or a limit, not the minute

logger = logging.getLogger("relay.outbox")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An entry and the record that tells of it."""

    entry: OutboxEntry
    record: PublicRecord

    @property
    def place(self) -> tuple[PublicTopic, str] | None:
        """What it keeps its order within; None: nothing."""
        return None if self.record.key is None else (self.record.topic, self.record.key)


class OutboxPublisher:
    """
    The worker that empties the outbox in order: publish, then remove, so at least once.

    What is published twice after a crash carries the same bytes; readers tell repeats apart. An
    entry that the log refuses for good is kept back, with those of the same order behind it, and
    tried again every five minutes; all others go on.
    """

    name = "outbox"

    def __init__(
        self,
        ledger: OutboxLedger,
        log: PublicLog,
        *,
        duty: Duty,
        tenant: str,
        clock: Clock,
        metrics: Metrics,
        step: StepHook,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._ledger = ledger
        self._log = log
        self._duty = duty
        self._writer = NoticeWriter(tenant)
        self._clock = clock
        self._metrics = metrics
        self._step = step
        self._chance = chance
        self._to_remove: list[int] = []  # acknowledged, still in the ledger
        self._refused: set[int] = set()
        self._refused_again_s = clock.monotonic_s() + _REFUSED_AGAIN_S
        self._kept_back = 0  # entries of the last round, refused ones and those behind them
        self._is_full = False
        self._failures = 0
        self._failing_since_s = 0.0
        self._is_alarmed = False

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                more = await self._round(stop)
            except RelayError as error:
                wait_s = self._fail(error)
            else:
                self._recover()
                wait_s = 0.0 if more else _IDLE_S
            await set_within(stop, self._clock, wait_s)

    async def _round(self, stop: asyncio.Event) -> bool:
        """Publish the oldest entries; whether more of them surely wait."""
        await self._remove_published()
        if not await self._duty.held():
            # Another process publishes them, and tries for itself what was refused here.
            self._refused.clear()
            self._kept_back = 0
            return False
        limit = BATCH + min(self._kept_back, MAX_KEPT_BACK)
        entries = await self._ledger.outbox(limit=limit)
        if not entries:
            self._refused.clear()
            self._kept_back = 0
            return False
        self._step(Step.OUTBOX_READ)
        removed = await self._publish_in_order(entries, stop)
        self._kept_back = len(entries) - removed
        self._tell_full()
        return removed > 0 and len(entries) == limit

    async def _publish_in_order(self, entries: Sequence[OutboxEntry], stop: asyncio.Event) -> int:
        """Publish and remove what is not kept back; how many those were."""
        self._refused.intersection_update(entry.id for entry in entries)
        known: Collection[int] = self._refused
        if self._clock.monotonic_s() >= self._refused_again_s:
            self._refused_again_s = self._clock.monotonic_s() + _REFUSED_AGAIN_S
            known = ()
        blocked: set[tuple[PublicTopic, str]] = set()
        removed = 0
        batch: list[_Waiting] = []
        for entry in entries:
            waiting = _Waiting(entry, self._writer.record(entry))
            if entry.id in known:
                _block(waiting, blocked)
            elif waiting.place not in blocked:
                batch.append(waiting)
            if len(batch) == BATCH:
                removed += await self._publish(batch, blocked, stop)
                batch = []
                if stop.is_set():
                    return removed
        if batch:
            removed += await self._publish(batch, blocked, stop)
        return removed

    async def _publish(
        self,
        batch: Sequence[_Waiting],
        blocked: set[tuple[PublicTopic, str]],
        stop: asyncio.Event,
    ) -> int:
        """Publish and remove; refusals go to `blocked`. Returns how many were removed."""
        try:
            await self._log.publish([waiting.record for waiting in batch])
        except PermanentError:
            await self._publish_singly(batch, blocked, stop)
        else:
            for waiting in batch:
                self._count(waiting)
        if self._to_remove:
            self._step(Step.OUTBOX_PUBLISHED)
        return await self._remove_published()

    async def _publish_singly(
        self,
        batch: Sequence[_Waiting],
        blocked: set[tuple[PublicTopic, str]],
        stop: asyncio.Event,
    ) -> None:
        """Find what the log refuses; the rest is published."""
        for waiting in batch:
            if stop.is_set():
                return
            if waiting.place in blocked:
                continue
            try:
                await self._log.publish([waiting.record])
            except PermanentError as error:
                _block(waiting, blocked)
                self._refuse(waiting, error)
            else:
                self._count(waiting)

    def _count(self, waiting: _Waiting) -> None:
        self._to_remove.append(waiting.entry.id)
        self._refused.discard(waiting.entry.id)
        self._metrics.notices_published.labels(topic=waiting.record.topic.value).inc()

    def _refuse(self, waiting: _Waiting, error: PermanentError) -> None:
        is_new = waiting.entry.id not in self._refused
        self._refused.add(waiting.entry.id)
        if is_new:
            logger.error(
                "notice.refused",
                extra={
                    "reason": error.reason,
                    "topic": waiting.record.topic.value,
                    "order_id": waiting.record.key,
                    "event_id": waiting.entry.notice.event_id,
                    "notice": waiting.entry.id,
                    "refused": len(self._refused),
                },
            )

    async def _remove_published(self) -> int:
        """Remove what was acknowledged, also by a former round whose ledger failed."""
        if not self._to_remove:
            return 0
        await self._ledger.remove_published(self._to_remove)
        self._step(Step.OUTBOX_REMOVED)
        removed = len(self._to_remove)
        self._to_remove.clear()
        return removed

    def _tell_full(self) -> None:
        is_full = self._kept_back >= MAX_KEPT_BACK
        if is_full and not self._is_full:
            logger.error("outbox.blocked", extra={"kept_back": self._kept_back})
        self._is_full = is_full

    def _fail(self, error: RelayError) -> float:
        """Seconds to wait after a failed round; tells once when it lasts."""
        now_s = self._clock.monotonic_s()
        if not self._failures:
            self._failing_since_s = now_s
        self._failures += 1
        asked_s = error.retry_after_s if isinstance(error, LogUnavailableError) else 0.0
        wait_s = min(max(asked_s, backoff_s(self._failures, self._chance())), _LONGEST_WAIT_S)
        lasts = now_s - self._failing_since_s >= _ALARM_AFTER_S and not self._is_alarmed
        self._is_alarmed = self._is_alarmed or lasts
        logger.log(
            logging.ERROR if lasts else logging.WARNING,
            "outbox.stuck" if lasts else "outbox.not_published",
            extra={"reason": error.reason, "attempt": self._failures, "retry_in_s": wait_s},
        )
        return wait_s

    def _recover(self) -> None:
        if self._failures:
            logger.info("outbox.recovered", extra={"attempt": self._failures})
        self._failures = 0
        self._is_alarmed = False


def _block(waiting: _Waiting, blocked: set[tuple[PublicTopic, str]]) -> None:
    if waiting.place is not None:
        blocked.add(waiting.place)
