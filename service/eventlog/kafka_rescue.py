"""Reads on where aiokafka's decoding fails, and passes over what is damaged for good."""

import logging
from collections.abc import Callable, Sequence
from typing import Final

from aiokafka.structs import TopicPartition

from service.eventlog.kafka_batches import UnknownCodecError, read_batches
from service.eventlog.kafka_consumer import GroupConsumer
from service.eventlog.kafka_streams import Streams, StreamState, raw_record_of, where
from service.telemetry.metrics import Metrics

# Looks at bytes that cannot be read before they count as damaged where they are stored.
_LOOKS: Final = 3

logger = logging.getLogger("relay.log")

StandStill = Callable[[StreamState, str], None]


class Rescue:
    """Knows how often it has looked at the damage of each stream."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._looks: dict[TopicPartition, int] = {}

    def forget(self) -> None:
        """Other streams were assigned."""
        self._looks.clear()

    async def read_all(
        self,
        consumer: GroupConsumer,
        states: Sequence[StreamState],
        streams: Streams,
        *,
        is_current: Callable[[], bool],
        stand_still: StandStill,
    ) -> bool:
        """
        One fetch of each stream, decoded as far as it can be; the consumer goes on after it.

        Args:
            is_current: whether the assignment is still the one that `states` belong to.
            stand_still: called for a stream whose records cannot be read here, though they are
                all right: those are never passed over.
        Returns: whether it is done; else it is to be called again, a little later.
        Raises: KafkaError.
        """
        is_done = True
        for state in states:
            position = state.position
            assert position is not None
            data = await consumer.fetch_raw(state.partition, position)
            if not is_current():
                return True
            if state.position != position or not state.is_read:
                continue  # intake sought another place meanwhile
            try:
                is_done &= self._take(state, streams, data)
            except UnknownCodecError as error:
                stand_still(state, f"compressed with {error}, which this installation cannot read")
            consumer.seek(state.partition, state.position)
        return is_done

    def _take(self, state: StreamState, streams: Streams, data: bytes) -> bool:
        for batch in read_batches(data):
            position = state.position
            assert position is not None
            if batch.next_offset <= position:
                continue
            if batch.damage is not None:
                if not self._is_hopeless(state.partition):
                    return False  # look again: it may have been damaged on the way
                logger.error(
                    "records.skipped",
                    extra={
                        **where(state.stream, position),
                        "records": batch.lost,
                        "reason": batch.damage,
                    },
                )
                self._metrics.records_skipped.inc(batch.lost)
            records = [
                raw_record_of(state.stream, record)
                for record in batch.records
                if record.offset >= position
            ]
            streams.put(state, records, batch.next_offset)
        return True

    def _is_hopeless(self, partition: TopicPartition) -> bool:
        looks = self._looks[partition] = self._looks.get(partition, 0) + 1
        if looks < _LOOKS:
            return False
        del self._looks[partition]
        return True
