"""Reads the log as a member of the consumer group, from where the ledger is."""

import asyncio
import contextlib
import logging
import random
import struct
import time
import zlib
from collections.abc import Mapping, Sequence
from gzip import BadGzipFile
from typing import Final

from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    UnsupportedCodecError,
)
from aiokafka.structs import TopicPartition

from service.domain.errors import LedgerUnavailableError, LogUnavailableError, StartupError
from service.domain.ports import PositionSource
from service.domain.records import Record, Stream, Topic
from service.eventlog.kafka_commits import Commits
from service.eventlog.kafka_config import KafkaConfig
from service.eventlog.kafka_consumer import GroupConsumer
from service.eventlog.kafka_errors import described
from service.eventlog.kafka_offsets import END, FIRST, ask_offsets, persistently
from service.eventlog.kafka_rescue import Rescue
from service.eventlog.kafka_streams import Streams, StreamState, record_of, where
from service.telemetry.metrics import Metrics

_POLL_MS: Final = 500
# Fetched ahead of intake; beyond it only streams that have nothing ahead are asked.
_AHEAD_BYTES: Final = 8 * 1024 * 1024
_LOOK_AGAIN_S: Final = 30.0  # at streams that stand still
# What is left over from before is not handed out before the brokers had a moment to bring what
# other streams have: a long stream that is all in memory would keep them waiting.
_TURN_S: Final = 0.01
_QUESTION_S: Final = 5.0
_ASSIGNMENT_S: Final = 20.0
_RETRY_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 10.0
_CLOSE_S: Final = 3.0
# A leader that was elected just now may not know its end yet.
_LOOKS_AT_OPEN: Final = 3

# What decoding of a damaged or an unusual batch ends with.
_UNDECODABLE: Final = (
    CorruptRecordException,
    UnsupportedCodecError,
    RecordTooLargeError,
    ValueError,
    IndexError,
    OverflowError,
    EOFError,
    struct.error,
    zlib.error,
    BadGzipFile,
)

logger = logging.getLogger("relay.log")


class KafkaLogReader:
    """
    The `LogReader` of a `KafkaEventLog`. To be opened with `open`.

    A task of its own fetches ahead; `fetch` hands out what is there and asks the ledger for the
    positions of new streams, so the ledger is asked only between two batches. Streams that are
    taken away are waited for until the batch in hand is finished, or given up.
    """

    def __init__(
        self,
        config: KafkaConfig,
        positions: PositionSource,
        *,
        metrics: Metrics,
        closing: set[asyncio.Task[None]],
        look_again_s: float = _LOOK_AGAIN_S,
    ) -> None:
        self._config = config
        self._positions = positions
        self._metrics = metrics
        self._closing_tasks = closing
        self._look_again_s = look_again_s
        self._topics = {config.name(topic): topic for topic in Topic}
        # Well below the time that the group gives to give up streams.
        self._patience_s = config.session_timeout_s / 2
        self._streams = Streams()
        self._consumer: GroupConsumer | None = None
        self._generation = 0
        self._assigned = asyncio.Event()
        self._arrived = asyncio.Event()
        self._polled = asyncio.Event()
        self._room = asyncio.Event()
        self._finished = asyncio.Event()
        self._finished.set()
        self._closing = asyncio.Event()
        self._commits = Commits()
        self._look_at = 0.0
        self._careful = False
        self._rescue = Rescue(metrics)
        self._why = "the group has not let it in yet"
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """
        Join the group and find the ledger's positions of what it assigned.

        Raises: LogUnavailableError (nobody lets it in), StartupError `position_out_of_range`.
        """
        self._task = asyncio.create_task(self._keep_reading(), name="log-reader")
        try:
            await self._wait_assigned()
            wrong: list[str] = []
            for _ in range(_LOOKS_AT_OPEN):
                await self._place()
                wrong = [s.stands_still for s in self._streams.all() if s.stands_still]
                if not wrong:
                    return
                await asyncio.sleep(_RETRY_S / 2)
            raise StartupError(
                "position_out_of_range",
                "; ".join(wrong)
                + "; ledger and log do not belong together: recover the ledger, or name the right"
                " cluster and prefix",
            )
        except BaseException:
            await self.close()
            raise

    @property
    def assigned(self) -> frozenset[Stream]:
        """The streams that the group gave to this reader."""
        return frozenset(state.stream for state in self._streams.all())

    async def fetch(self, *, max_records: int, wait_s: float) -> Sequence[Record]:
        self._finish()
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while True:
            self._check()
            if self._is_to_place():
                await self._place()
            if self._streams.ahead_bytes and not self._polled.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TURN_S):
                        await self._polled.wait()
            self._polled.clear()
            records = self._streams.take(max_records)
            if records:
                self._room.set()
                self._finished.clear()
                return records
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._arrived.wait()
            except TimeoutError:
                return ()

    async def seek(self, positions: Mapping[Stream, int]) -> None:
        """Streams that are gone, or whose place the ledger is to be asked for, are ignored."""
        self._finish()
        for stream, position in positions.items():
            state = self._streams.get(self._partition(stream))
            if state is not None and state.is_read:
                self._go_to(state, position)
        self._room.set()

    async def acknowledge(self, positions: Mapping[Stream, int]) -> None:
        """Commits in the background; streams that are gone are ignored."""
        self._finish()
        self._commits.note(
            {
                partition: position
                for stream, position in positions.items()
                if self._streams.get(partition := self._partition(stream)) is not None
            }
        )

    async def close(self) -> None:
        """Commit what was acknowledged, within a bound, and leave the group."""
        if self._closing.is_set():
            return
        self._finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                if self._consumer is not None:
                    await self._commits.settled()
        self._closing.set()
        self._arrived.set()
        if self._task is not None:
            # A frozen broker is not waited for longer; the log does that when it closes.
            self._closing_tasks.add(self._task)
            self._task.add_done_callback(self._closing_tasks.discard)
            await asyncio.wait([self._task], timeout=_CLOSE_S)
            if self._task.done():
                self._task.result()
        self._metrics.streams_out_of_range.set(0)

    # What the group says. These run while the group waits, so they are quick or bounded.

    async def _on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        if not partitions:
            return
        is_lost = self._consumer is None or self._consumer.is_lost
        self._metrics.log_rebalances.labels("lost" if is_lost else "revoked").inc()
        logger.info(
            "streams.lost" if is_lost else "streams.revoked", extra={"streams": len(partitions)}
        )
        # Nothing more of them is handed out; what is in hand may still be acknowledged.
        self._generation += 1
        self._assigned.clear()
        for state in self._streams.all():
            self._streams.go_to(state, 0)
            state.position = None
        if not is_lost and not self._closing.is_set():
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._finished.wait()
                    await self._commits.settled()
            except TimeoutError:
                # The ledger's positions decide between this batch and who has the stream next.
                logger.warning("records.given_up", extra={"streams": len(partitions)})
        self._commits.forget()
        self._streams.assign(())

    async def _on_assigned(self, partitions: Sequence[TopicPartition]) -> None:
        self._generation += 1
        self._streams.assign((self._stream(partition), partition) for partition in partitions)
        self._rescue.forget()
        self._metrics.log_rebalances.labels("assigned").inc()
        logger.info("streams.assigned", extra={"streams": len(partitions)})
        self._assigned.set()
        self._arrived.set()
        self._room.set()

    # Where to go on.

    def _is_to_place(self) -> bool:
        if not self._assigned.is_set():
            return False
        return any(
            state.position is None
            or (state.stands_still is not None and time.monotonic() >= self._look_at)
            for state in self._streams.all()
        )

    async def _place(self) -> None:
        """Ask the ledger where new streams, and those that stand still, are to go on."""
        states = [state for state in self._streams.all() if not state.is_read]
        consumer, generation = self._consumer, self._generation
        if not states or consumer is None:
            return
        try:
            wanted = await self._positions([state.stream for state in states])
        except LedgerUnavailableError as error:
            raise LogUnavailableError("positions_not_known", error.reason) from error
        partitions = [state.partition for state in states]
        client = consumer.client
        first = await persistently(
            lambda: ask_offsets(client, partitions, FIRST), patience_s=_QUESTION_S
        )
        end = await persistently(
            lambda: ask_offsets(client, partitions, END), patience_s=_QUESTION_S
        )
        if generation != self._generation:
            return  # they are gone, or new again
        for state in states:
            lowest, highest = first[state.partition], end[state.partition]
            position = wanted.get(state.stream, lowest)
            self._go_to(state, position)
            if lowest <= position <= highest:
                if state.stands_still is not None:
                    consumer.resume(state.partition)
                    logger.info("stream.goes_on", extra=where(state.stream, position))
                state.stands_still = None
            else:
                self._stand_still(
                    state,
                    f"{state.partition.topic} partition {state.partition.partition} is wanted from"
                    f" offset {position}, the log has {lowest} to {highest}",
                    "stream.out_of_range",
                    wanted=position,
                    have=[lowest, highest],
                )
        self._count_standing()
        self._room.set()

    def _stand_still(self, state: StreamState, why: str, event: str, **fields: object) -> None:
        """Read nothing of this stream until it was looked at again; the others go on."""
        assert self._consumer is not None
        if state.stands_still is None:
            self._consumer.pause(state.partition)
        if state.stands_still != why:
            logger.error(event, extra={**where(state.stream, state.position), **fields})
        state.stands_still = why
        self._look_at = time.monotonic() + self._look_again_s
        self._count_standing()

    def _count_standing(self) -> None:
        standing = sum(1 for state in self._streams.all() if state.stands_still is not None)
        self._metrics.streams_out_of_range.set(standing)

    def _go_to(self, state: StreamState, position: int) -> None:
        assert self._consumer is not None
        self._streams.go_to(state, position)
        self._consumer.seek(state.partition, position)

    # Fetching ahead.

    async def _keep_reading(self) -> None:
        """Be a member of the group until closed, a new one when one cannot go on."""
        failures = 0
        while not self._closing.is_set():
            consumer = GroupConsumer(
                self._config,
                list(self._topics),
                revoked=self._on_revoked,
                assigned=self._on_assigned,
            )
            self._consumer = consumer
            reading = asyncio.create_task(self._read(consumer), name="log-reader-fetch")
            committing = asyncio.create_task(self._commits.run(consumer), name="log-reader-commit")
            closing = asyncio.create_task(self._closing.wait(), name="log-reader-closing")
            try:
                await asyncio.wait((reading, closing), return_when=asyncio.FIRST_COMPLETED)
                if self._assigned.is_set():
                    failures = 0
            finally:
                for task in (reading, committing, closing):
                    task.cancel()
                await asyncio.wait((reading, committing, closing))
                self._leave()
                await consumer.stop()
            if not reading.cancelled():
                reading.result()
            failures += 1
            if not self._closing.is_set():
                longest = min(_LONGEST_PAUSE_S, _RETRY_S * 2 ** (failures - 1))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(longest * random.uniform(0.5, 1.0)):
                        await self._closing.wait()

    def _leave(self) -> None:
        """This member's streams are nobody's until the next one is in the group."""
        self._generation += 1
        self._assigned.clear()
        self._commits.forget()
        self._streams.assign(())
        self._consumer = None
        self._count_standing()

    async def _read(self, consumer: GroupConsumer) -> None:
        """Fetch ahead until the consumer cannot go on."""
        try:
            await consumer.start()
            while not consumer.is_broken:
                await self._read_some(consumer)
            self._why = "fetching ended"
        except ConsumerStoppedError:
            self._why = "the consumer was stopped"
        except KafkaError as error:
            self._why = described(error)
        logger.warning("log.reader_restarts", extra={"reason": self._why})

    async def _read_some(self, consumer: GroupConsumer) -> None:
        if self._careful:
            await self._read_carefully(consumer)
            return
        wanted = [state for state in self._streams.all() if state.is_read]
        is_full = self._streams.ahead_bytes >= _AHEAD_BYTES
        if is_full:
            wanted = [state for state in wanted if not state.ahead]
        self._room.clear()
        if not wanted:
            await self._room.wait()
            return
        try:
            found = await consumer.poll(
                [state.partition for state in wanted], wait_ms=0 if is_full else _POLL_MS
            )
        except (OffsetOutOfRangeError, NoOffsetForPartitionError):
            # Retention was faster than intake, or the log lost its end. The ledger says where to
            # go on, and `_place` tells when that is nowhere.
            for each in self._streams.all():
                if each.is_read:
                    self._streams.go_to(each, 0)
                    each.position = None
            self._arrived.set()
        except _UNDECODABLE as error:
            # Whatever was decoded before is lost with it: every stream is read again.
            logger.warning("records.not_decoded", extra={"reason": described(error)})
            self._careful = True
        else:
            for partition, rows in found.items():
                state = self._streams.get(partition)
                if state is not None and state.is_read:
                    records = [record_of(state.stream, row) for row in rows]
                    self._streams.put(state, records, rows[-1].offset + 1)
            if found:
                self._arrived.set()
                self._polled.set()
            elif is_full:
                await self._room.wait()

    async def _read_carefully(self, consumer: GroupConsumer) -> None:
        """One round over all streams past aiokafka's decoding; then it may go on."""
        generation = self._generation
        self._careful = not await self._rescue.read_all(
            consumer,
            [state for state in self._streams.all() if state.is_read],
            self._streams,
            is_current=lambda: generation == self._generation,
            stand_still=lambda state, why: self._stand_still(
                state, why, "stream.not_readable", reason=why
            ),
        )
        self._arrived.set()
        if self._careful:
            await asyncio.sleep(_RETRY_S)

    def _finish(self) -> None:
        """The batch in hand is committed or given up."""
        self._finished.set()

    def _check(self) -> None:
        if self._closing.is_set():
            raise LogUnavailableError("closed")
        if self._task is not None and self._task.done():
            self._task.result()

    async def _wait_assigned(self) -> None:
        assert self._task is not None
        waiting = asyncio.create_task(self._assigned.wait(), name="log-reader-assigned")
        try:
            await asyncio.wait(
                (waiting, self._task), timeout=_ASSIGNMENT_S, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            waiting.cancel()
        self._check()
        if not self._assigned.is_set():
            raise LogUnavailableError("not_assigned", self._why)

    def _partition(self, stream: Stream) -> TopicPartition:
        return TopicPartition(self._config.name(stream.log_topic), stream.partition)

    def _stream(self, partition: TopicPartition) -> Stream:
        return Stream(self._topics[partition.topic], partition.partition)
