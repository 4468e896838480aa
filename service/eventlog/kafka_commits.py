"""Commits how far the ledger is, in the background: for lag displays, nothing else."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from service.eventlog.kafka_consumer import GroupConsumer
from service.eventlog.kafka_errors import described

_RETRY_S: Final = 1.0

logger = logging.getLogger("relay.log")


class Commits:
    """
    At most one commit is under way; what is noted meanwhile becomes one commit after it.

    A commit takes at least 5 ms on Kafka 4. One that fails is dropped: the next tells more.
    """

    def __init__(self) -> None:
        self._noted: dict[TopicPartition, int] = {}
        self._something = asyncio.Event()
        self._nothing = asyncio.Event()
        self._nothing.set()

    def note(self, offsets: Mapping[TopicPartition, int]) -> None:
        """These are to be committed."""
        if offsets:
            self._noted.update(offsets)
            self._something.set()
            self._nothing.clear()

    def forget(self) -> None:
        """The streams are gone: somebody else commits for them."""
        self._noted.clear()
        self._something.clear()
        self._nothing.set()

    async def settled(self) -> None:
        """Wait until everything noted is committed or dropped."""
        await self._nothing.wait()

    async def run(self, consumer: GroupConsumer) -> None:
        """Commit what is noted, until cancelled."""
        while True:
            await self._something.wait()
            self._something.clear()
            noted, self._noted = self._noted, {}
            try:
                await consumer.commit(noted)
            except KafkaError as error:
                # Mostly a rebalance: the streams are elsewhere by now.
                logger.info("offsets.not_committed", extra={"reason": described(error)})
            if not self._something.is_set():
                self._nothing.set()
