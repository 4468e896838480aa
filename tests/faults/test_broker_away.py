"""The broker restarts, stands still or is gone: SCAYLE's deliveries are taken all the same (P1)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from service.domain.records import Topic
from service.sandbox.deliveries import DeliveryPlan
from service.sandbox.scayle import generate_orders
from service.stores import Role
from tests.harness.files import KafkaLogView
from tests.harness.fleet import Fleet, lines, running_fleet
from tests.harness.infrastructure import MakeKafkaServer
from tests.harness.kafka_server import KafkaServer
from tests.harness.load import STEADY, Load
from tests.harness.place import Place, make_place
from tests.harness.postgres_server import PostgresServer
from tests.harness.service_process import ServiceProcess
from tests.harness.waiting import until

_RATE: Final = 50
_PLAN: Final = STEADY
_CHAINS: Final = 4
_REFUSED: Final = 'relay_webhooks_total{outcome="unavailable"}'

# How the broker goes away and comes back; in between the load tells how long it lasts.
Outage = Callable[[KafkaServer, Callable[[], Awaitable[None]]], Awaitable[None]]


async def restarted(broker: KafkaServer, meanwhile: Callable[[], Awaitable[None]]) -> None:
    await asyncio.to_thread(broker.stop)
    await meanwhile()
    await asyncio.to_thread(broker.restart)


async def killed(broker: KafkaServer, meanwhile: Callable[[], Awaitable[None]]) -> None:
    broker.kill()
    await meanwhile()
    await asyncio.to_thread(broker.restart)


async def frozen(broker: KafkaServer, meanwhile: Callable[[], Awaitable[None]]) -> None:
    broker.freeze()
    try:
        await meanwhile()
    finally:
        broker.thaw()


@asynccontextmanager
async def under_load(service: ServiceProcess) -> AsyncIterator[list[Load]]:
    """New orders, and a few orders again and again: in those, the log's order shows."""
    async with AsyncExitStack() as stack:
        first = Load.of_orders(service.webhook_url, seed=1, plan=_PLAN)
        loads = [await stack.enter_async_context(first)]
        for envelope in generate_orders(2, _CHAINS, first_order_id=900_000_001):
            chain = Load.of_repeats(service.webhook_url, envelope)
            loads.append(await stack.enter_async_context(chain))
        yield loads


async def place_on(tmp_path: Path, broker: KafkaServer, postgres: PostgresServer) -> Place:
    return await make_place(
        tmp_path, log="kafka", ledger="postgres", kafka=broker, postgres=postgres
    )


async def assert_order_was_kept(place: Place, service: ServiceProcess) -> None:
    """
    Events of one order lie in the log in the order in which they were answered.

    Only the orders whose deliveries never overlapped tell; a repeat by the spool does not count.
    """
    assert isinstance(place.log, KafkaLogView)
    answered: dict[str, list[str]] = {}
    for line in lines(service, "webhook.accepted"):
        answered.setdefault(line["order_id"], []).append(line["event_id"])
    events = await place.log.events(Topic.ORDERS)
    chains = [order_id for order_id in answered if order_id.startswith("9000000")]
    assert len(chains) == _CHAINS
    for order_id in chains:
        assert list(dict.fromkeys(events[order_id])) == answered[order_id]


async def readiness_of(fleet: Fleet, service: ServiceProcess) -> list[str]:
    answer = await fleet.readiness(service)
    assert answer.status == 200, answer
    degraded: list[str] = answer.json["degraded"]
    return degraded


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("outage", "seconds", "roles"),
    [
        pytest.param(restarted, 0, (Role.SERVE,), id="restarted", marks=pytest.mark.slow),
        pytest.param(killed, 5, (Role.RECEIVE, Role.CONSUME), id="gone"),
        pytest.param(frozen, 5, (Role.SERVE,), id="frozen"),
        pytest.param(killed, 30, (Role.SERVE,), id="gone-long", marks=pytest.mark.slow),
        pytest.param(frozen, 30, (Role.SERVE, Role.CONSUME), id="frozen-long",
                     marks=pytest.mark.slow),
    ],
)  # fmt: skip
async def test_with_a_spool_every_delivery_is_answered_200_while_the_broker_is_away(
    outage: Outage,
    seconds: int,
    roles: tuple[Role, ...],
    make_kafka_server: MakeKafkaServer,
    postgres_server: PostgresServer,
    tmp_path: Path,
) -> None:
    """P1, P2, P3: at the first attempt; in order per order; the spool is left by itself."""
    broker = make_kafka_server()
    place = await place_on(tmp_path, broker, postgres_server)
    spool = {"RELAY_SPOOL_PATH": str(tmp_path / "spool.db")}
    async with running_fleet(tmp_path, place) as fleet:
        service = await fleet.started(roles[0], settings=spool)
        for role in roles[1:]:
            await fleet.started(role)
        async with under_load(service) as loads:

            async def meanwhile() -> None:
                await until(lambda: _is_spooling(fleet, service), what="events go to the spool")
                await loads[0].more(seconds * _RATE)
                assert await readiness_of(fleet, service) == ["spooling"]

            await loads[0].more(_RATE)
            await outage(broker, meanwhile)
            await until(lambda: _is_direct(fleet, service), what="the spool is left", timeout_s=90)
            await loads[0].more(_RATE)
        assert [dict(load.report.by_status) for load in loads] == [
            {"200": load.report.sent} for load in loads
        ]
        await fleet.rest(*loads)
        assert await fleet.metric(service, "relay_spool_records") == 0
        await fleet.assert_exact(*loads)
        await assert_order_was_kept(place, service)
        assert len(list(lines(service, "spool.left"))) >= 1
        await fleet.stop()


async def _is_spooling(fleet: Fleet, service: ServiceProcess) -> bool:
    return bool(await fleet.metric(service, "relay_spool_records"))


async def _is_direct(fleet: Fleet, service: ServiceProcess) -> bool:
    return "spooling" not in await readiness_of(fleet, service)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("outage", "refusals"),
    [
        pytest.param(killed, 40, id="gone"),
        pytest.param(frozen, 40, id="frozen", marks=pytest.mark.slow),
    ],
)
async def test_without_a_spool_scayle_is_told_to_come_again_and_nothing_is_lost(
    outage: Outage,
    refusals: int,
    make_kafka_server: MakeKafkaServer,
    postgres_server: PostgresServer,
    tmp_path: Path,
) -> None:
    """P1, P3: 503 with Retry-After is SCAYLE's sign to keep the event."""
    broker = make_kafka_server()
    place = await place_on(tmp_path, broker, postgres_server)
    async with running_fleet(tmp_path, place) as fleet:
        service = await fleet.started(Role.SERVE)
        load = Load.of_orders(service.webhook_url, seed=3, plan=_PLAN)

        async def is_refusing() -> bool:
            return await fleet.metric(service, _REFUSED) >= refusals

        async def meanwhile() -> None:
            await until(is_refusing, what="webhooks are refused")
            answer = await fleet.post(service, next(iter(generate_orders(3, 1))))
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) >= 1

        async with load:
            await load.more(_RATE)
            await outage(broker, meanwhile)
            await load.more(2 * _RATE)
        assert set(load.report.by_status) == {"200", "503"}
        assert not load.report.given_up
        await fleet.rest(load)
        await fleet.assert_exact(load)
        await fleet.stop()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("role", [Role.RECEIVE])
async def test_full_spool_outlives_its_process_while_the_broker_is_away(
    role: Role,
    make_kafka_server: MakeKafkaServer,
    postgres_server: PostgresServer,
    tmp_path: Path,
) -> None:
    """P1: killed with a full spool and started again without a broker, it has lost nothing."""
    broker = make_kafka_server()
    place = await place_on(tmp_path, broker, postgres_server)
    spool = {"RELAY_SPOOL_PATH": str(tmp_path / "spool.db"), "RELAY_SPOOL_LIMIT": "1MiB"}
    plan = DeliveryPlan(rate=200, concurrency=16, attempts=10_000, longest_wait_s=0.3, timeout_s=30)
    async with running_fleet(tmp_path, place) as fleet:
        receiver = await fleet.started(role, settings=spool)
        consumer = await fleet.started(Role.CONSUME)
        load = Load.of_orders(receiver.webhook_url, seed=4, plan=plan)

        async def is_full() -> bool:
            return await fleet.metric(receiver, _REFUSED) >= 10

        async with load:
            await load.more(_RATE)
            broker.kill()
            await until(is_full, what="the spool is full", timeout_s=60)
            held = await fleet.metric(receiver, "relay_spool_records")
            receiver.kill()
            receiver.start()
            await receiver.wait_ready()
            assert await fleet.metric(receiver, "relay_spool_records") >= held
            await until(is_full, what="the spool is full again", timeout_s=60)
            await asyncio.to_thread(broker.restart)
            await until(lambda: _is_direct(fleet, receiver), what="the spool is left", timeout_s=90)
            await load.more(_RATE)
        assert held > 100
        assert set(load.report.by_status) == {"200", "503", "lost"}
        assert not load.report.given_up
        await fleet.rest(load)
        await fleet.assert_exact(load)
        assert consumer.is_running
        await fleet.stop()
