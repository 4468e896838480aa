"""Consumers join and leave every second under load: no partition is stalled or read past."""

import random
from pathlib import Path
from signal import SIGTERM
from typing import Final

import pytest

from service.sandbox.deliveries import DeliveryPlan
from service.stores import Role
from tests.harness.files import KafkaLogView
from tests.harness.fleet import Fleet, lines, running_fleet
from tests.harness.kafka_server import KafkaServer
from tests.harness.load import Load
from tests.harness.place import make_place
from tests.harness.postgres_server import PostgresServer
from tests.harness.service_process import ServiceProcess

_SLOTS: Final = 4
_RATE: Final = 40
_PLAN: Final = DeliveryPlan(rate=_RATE, concurrency=8, duplicates=0.2, reordering=5)
_STOPPED_BEFORE_A_KILL: Final = 2
_POSITIONS: Final = 'SELECT topic, "partition", position FROM positions'


class Storm:
    """Starts and ends consumers, one at a time, drawn from a seed."""

    def __init__(self, consumers: list[ServiceProcess], *, seed: int) -> None:
        self._consumers = consumers
        self._draw = random.Random(seed)
        self._begun: dict[ServiceProcess, int] = {}  # where the log of its last start begins
        self._leaving: set[ServiceProcess] = set()
        self.joined = 0
        self.stopped = 0
        self.killed = 0

    async def blow(self) -> None:
        """One consumer joins or leaves; one that was asked to leave is left to do so."""
        consumer = self._draw.choice(self._consumers)
        if consumer in self._leaving:
            await self._left(consumer)
        if not consumer.is_running:
            self._start(consumer)
        elif self._is_ready(consumer) and self.stopped <= _STOPPED_BEFORE_A_KILL * self.killed:
            consumer.send_signal(SIGTERM)
            self._leaving.add(consumer)
            self.stopped += 1
        else:
            consumer.kill()  # perhaps while it joins
            self.killed += 1

    def _start(self, consumer: ServiceProcess) -> None:
        self._begun[consumer] = len(consumer.log_text())
        consumer.start()
        self.joined += 1

    def _is_ready(self, consumer: ServiceProcess) -> bool:
        """Whether it minds SIGTERM by now."""
        return '"service.ready"' in consumer.log_text()[self._begun[consumer] :]

    async def calm(self) -> None:
        """Wait until all of them are there."""
        for consumer in list(self._leaving):
            await self._left(consumer)
        for consumer in self._consumers:
            if not consumer.is_running:
                self._start(consumer)
            await consumer.wait_ready()

    async def _left(self, consumer: ServiceProcess) -> None:
        assert await consumer.wait_exit(timeout_s=60) == 0, consumer.log_text()[-4000:]
        self._leaving.discard(consumer)


async def assert_read_to_the_end(fleet: Fleet) -> None:
    """Every partition with records has a position in the ledger, at its end."""
    assert isinstance(fleet.place.log, KafkaLogView)
    ends = await fleet.place.log.ends()
    positions = {
        (topic, number): position for topic, number, position in fleet.place.ledger.rows(_POSITIONS)
    }
    filled = {stream: end for stream, end in ends.items() if end}
    assert len(filled) > 1
    assert {stream: positions.get(stream) for stream in filled} == filled


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seconds", [15, pytest.param(60, marks=pytest.mark.slow)])
async def test_rebalance_storm_loses_nothing_and_books_nothing_twice(
    seconds: int, kafka_server: KafkaServer, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """P2, P3."""
    place = await make_place(
        tmp_path, log="kafka", ledger="postgres", kafka=kafka_server, postgres=postgres_server
    )
    async with running_fleet(tmp_path, place) as fleet:
        receiver = await fleet.started(Role.RECEIVE)
        storm = Storm([fleet.add(Role.CONSUME) for _ in range(_SLOTS)], seed=seconds)
        await storm.calm()
        async with Load.of_orders(receiver.webhook_url, seed=9, plan=_PLAN) as load:
            for _ in range(seconds):
                await storm.blow()
                await load.more(_RATE)
        await storm.calm()
        await fleet.rest(load, timeout_s=90)
        await assert_read_to_the_end(fleet)
        await fleet.assert_exact(load)
        assert storm.joined and storm.stopped and storm.killed
        assigned = [1 for each in fleet.processes for _ in lines(each, "streams.assigned")]
        assert len(assigned) > 2 * _SLOTS  # more often than all of them joining takes
        await fleet.stop()
