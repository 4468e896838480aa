"""Appends to Kafka, each within its own time limit, over producers that are made anew."""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any, Final

from aiokafka.errors import KafkaError

from service.domain.clock import Clock
from service.domain.errors import LogUnavailableError, PermanentError, StartupError
from service.domain.ports import Step, StepHook
from service.eventlog.kafka_config import KafkaConfig
from service.eventlog.kafka_errors import described, translated
from service.eventlog.kafka_producer import Outgoing, Producer, connect, why_not
from service.telemetry.metrics import Metrics

# Before a new producer is made: at once the first time, then longer while none gets through.
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
_FULL_RETRY_S: Final = 1.0
_AWAY_RETRY_S: Final = 2.0

logger = logging.getLogger("relay.log")


class KafkaWriter:
    """
    Hands records to the one producer that is connected; without one it refuses at once.

    The first record that misses its time limit ends the producer for all that wait with it: a
    broker that does not answer one does not answer the others, and what a discarded producer
    had under way may still land. A new one is made in the background.
    """

    def __init__(
        self,
        config: KafkaConfig,
        topics: Sequence[str],
        *,
        metrics: Metrics,
        clock: Clock,
        step: StepHook,
        max_records: int,
        max_bytes: int,
    ) -> None:
        self._config = config
        self._topics = topics
        self._metrics = metrics
        self._clock = clock
        self._step = step
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._producer: Producer | None = None
        self._why = "not connected yet"
        self._failures = 0
        self._waiting_records = 0
        self._waiting_bytes = 0
        self._wanted = asyncio.Event()
        self._connected = asyncio.Event()
        self._closing = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None
        self._discarding: set[asyncio.Task[None]] = set()
        metrics.log_queue.set_function(lambda: self._waiting_records)
        metrics.log_connected.set(0)

    async def open(self, *, must_connect: bool, patience_s: float) -> None:
        """
        Begin to connect, and wait until it worked once when it `must`.

        Raises: StartupError `log_not_reachable` after `patience_s`, `kafka_tls_files`.
        """
        self._wanted.set()
        self._connecting = asyncio.create_task(self._stay_connected(), name="log-connection")
        waiting = asyncio.create_task(self._connected.wait(), name="log-connected")
        try:
            # Without the need a moment is given all the same: mostly the broker is there.
            await asyncio.wait(
                (waiting, self._connecting),
                timeout=patience_s if must_connect else min(1.0, patience_s),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            waiting.cancel()
        self._raise_a_bug()
        if must_connect and self._producer is None:
            why = await why_not(self._config) or self._why
            raise StartupError("log_not_reachable", f"{self._config.described()}: {why}")

    def client(self) -> Any:
        """The connections of the present producer. Raises: LogUnavailableError."""
        return self._present().client

    async def append(self, records: Sequence[Outgoing]) -> None:
        """
        Append `records` in this order; returns when all are acknowledged.

        Raises: LogUnavailableError (`not_connected` and `queue_full` at once,
            `deadline_missed`, `refused`), PermanentError; any of them may be there then.
        """
        producer = self._present()
        size = sum(record.size_bytes for record in records)
        self._check_room(len(records), size)
        self._waiting_records += len(records)
        self._waiting_bytes += size
        pending: list[asyncio.Future[object]] = []
        try:
            async with asyncio.timeout(self._config.publish_deadline_s) as deadline:
                producer.enter(deadline)
                try:
                    self._step(Step.LOG_BEFORE_COMMIT)
                    now_ms = self._clock.now_ms()
                    for record in records:
                        pending.append(await producer.hand_over(record, timestamp_ms=now_ms))
                    await (pending[0] if len(pending) == 1 else asyncio.gather(*pending))
                finally:
                    producer.leave(deadline)
        except TimeoutError as error:
            self._give_up(producer, "deadline_missed")
            raise LogUnavailableError(
                "deadline_missed",
                f"no acknowledgement within {self._config.publish_deadline_s:g} s",
                retry_after_s=_AWAY_RETRY_S,
            ) from error
        except KafkaError as error:
            meaning = translated(error, topic=records[min(len(pending), len(records) - 1)].topic)
            # Refused before anything was handed over, it leaves the others as they are. A batch
            # that the broker refused leaves a gap in its stream's sequence: nothing that this
            # producer sends there would be taken again.
            if len(pending) == len(records) or not isinstance(meaning, PermanentError):
                self._retire(producer, described(error))
            raise meaning from error
        finally:
            for future in pending:
                future.cancel()  # does nothing to one that is done; none is looked at again
            self._waiting_records -= len(records)
            self._waiting_bytes -= size
        if not producer.has_acknowledged:
            producer.has_acknowledged = True
            self._failures = 0
        self._step(Step.LOG_AFTER_COMMIT)

    async def close(self) -> None:
        """Wait for what is under way, each within its time limit, and end the producer."""
        self._closing.set()
        self._wanted.set()
        if self._connecting is not None:
            await asyncio.wait([self._connecting])
        producer, self._producer = self._producer, None
        self._why = "closed"
        if producer is not None:
            await self._settle(producer)
        if self._discarding:
            await asyncio.wait(self._discarding)
        self._metrics.log_connected.set(0)
        if self._connecting is not None:
            self._connecting.result()

    def _present(self) -> Producer:
        producer = self._producer
        if producer is None:
            self._raise_a_bug()
            raise LogUnavailableError("not_connected", self._why, retry_after_s=_AWAY_RETRY_S)
        return producer

    def _check_room(self, records: int, size: int) -> None:
        # One that is larger than all room is taken when nothing else waits.
        if self._waiting_records and (
            self._waiting_records + records > self._max_records
            or self._waiting_bytes + size > self._max_bytes
        ):
            raise LogUnavailableError(
                "queue_full",
                f"{self._waiting_records} records, {self._waiting_bytes} bytes wait already",
                retry_after_s=_FULL_RETRY_S,
            )

    def _raise_a_bug(self) -> None:
        """An error that nobody expected ends the connecting task; it is not hidden there."""
        if self._connecting is not None and self._connecting.done():
            self._connecting.result()

    def _give_up(self, producer: Producer, reason: str) -> None:
        """Discard `producer`; whatever else waits for it has missed its time limit too."""
        producer.expire()
        self._retire(producer, reason)

    def _retire(self, producer: Producer, reason: str) -> None:
        """Append nothing more to `producer` and end it when nothing waits for it any more."""
        if producer is not self._producer:
            return
        self._producer = None
        self._why = reason
        if not producer.has_acknowledged:
            self._failures += 1
        self._connected.clear()
        self._metrics.log_connected.set(0)
        logger.warning("log.disconnected", extra={"reason": reason})
        task = asyncio.create_task(self._settle(producer), name="log-discard")
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)
        self._wanted.set()

    async def _settle(self, producer: Producer) -> None:
        """Let the appends that wait for `producer` end, which their limits see to; then it."""
        await producer.idle()
        await producer.discard()

    async def _stay_connected(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._producer is None and not self._closing.is_set():
                await self._pause()
                await self._connect()
            if self._closing.is_set():
                return

    async def _pause(self) -> None:
        if not self._failures:
            return
        longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self._failures - 1))
        try:
            async with asyncio.timeout(longest * random.uniform(0.5, 1.0)):
                await self._closing.wait()
        except TimeoutError:
            pass

    async def _connect(self) -> None:
        if self._closing.is_set():
            return
        try:
            self._producer = await connect(self._config, self._topics)
        except (KafkaError, TimeoutError) as error:
            self._failures += 1
            self._why = described(error)
            logger.warning("log.not_connected", extra={"reason": self._why})
        else:
            self._connected.set()
            self._metrics.log_connected.set(1)
            logger.info("log.connected", extra={"servers": self._config.described()})
