"""A ledger is put back from a copy, or lost: the service refuses it until it was recovered."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import pytest

from service.sandbox.deliveries import DeliveryPlan
from service.sandbox.faults import FaultRule
from service.sandbox.scayle import Shares, generate_orders
from service.stores import Role
from tests.harness.account import ExpectedOrder, expected_order
from tests.harness.copies import copy_ledger, empty_ledger
from tests.harness.files import let_time_pass
from tests.harness.fleet import Fleet, lines, running_fleet
from tests.harness.kafka_server import KafkaServer
from tests.harness.load import Load
from tests.harness.place import Place, make_place
from tests.harness.postgres_server import PostgresServer
from tests.harness.service_process import ServiceProcess
from tests.harness.waiting import until

_PLAN: Final = DeliveryPlan(concurrency=4, duplicates=0.2)
_HAVE_CARDS: Final = Shares(guests=0, without_card=0)
_STATES: Final = "SELECT kind, state, count(*) FROM effects GROUP BY kind, state"
_APPLIED: Final = 20  # orders that are at Splio when the copy is made
_HELD: Final = "SELECT effect_key FROM effects WHERE state = 'held'"


def orders(seed: int, count: int) -> list[dict[str, Any]]:
    return list(
        generate_orders(
            seed,
            count,
            first_order_id=seed * 1_000_000,
            customers=8,
            products=6,
            shares=_HAVE_CARDS,
        )
    )


@pytest.fixture(params=["embedded", "distributed"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[Place, PostgresServer | None]:
    """Both ways to store; the servers only where they are needed."""
    if request.param == "embedded":
        return await make_place(tmp_path, log="sqlite", ledger="sqlite"), None
    kafka: KafkaServer = request.getfixturevalue("kafka_server")
    postgres: PostgresServer = request.getfixturevalue("postgres_server")
    shared = await make_place(
        tmp_path, log="kafka", ledger="postgres", kafka=kafka, postgres=postgres
    )
    return shared, postgres


async def delivered(service: ServiceProcess, envelopes: Sequence[Mapping[str, Any]]) -> Load:
    async with Load(service.webhook_url, envelopes, _PLAN) as load:
        await load.all()
    return load


def states(place: Place) -> dict[tuple[str, str], int]:
    """How many effects there are by kind and state."""
    return {(kind, state): count for kind, state, count in place.ledger.rows(_STATES)}


async def wait_for(place: Place, kind: str, state: str, count: int) -> None:
    def are_there() -> bool:
        return states(place).get((kind, state), 0) == count

    try:
        await until(are_there, what=f"{count} of {kind} are {state}", timeout_s=60)
    except AssertionError as error:
        raise AssertionError(f"{error}; {states(place)}") from None


def are_postponed(place: Place, effects: int) -> bool:
    """Whether these effects are planned and none of them is under way."""
    found = states(place)
    return sum(found.values()) == effects and {state for _, state in found} == {
        "applied", "due", "held"
    }  # fmt: skip


async def assert_refused(fleet: Fleet, place: Place) -> None:
    """Neither role that has the ledger starts on it, and both say what to do."""
    for role in ("serve", "consume") if place.is_shared else ("serve",):
        code, output = await fleet.command(role)
        assert code == 1, output
        assert "ledger_behind_log" in output
        assert "loyalty-relay recover --since" in output


async def release(fleet: Fleet, service: ServiceProcess, key: str) -> None:
    """As an operator does with what is held."""
    answer = await fleet.operate(service, "POST", f"/api/effects/{key}/release")
    assert answer.status in (200, 204), answer


async def recover(fleet: Fleet, *, since: datetime) -> str:
    code, output = await fleet.command("recover", "--since", since.isoformat())
    assert code == 0, output
    return output


@dataclass(frozen=True, slots=True)
class Cases:
    """
    Orders by what becomes of them: delivered before and since the copy, of which those of
    `unknown_card` are rejected since; `limit` holds those of `too_many` points.
    """

    before: Sequence[Mapping[str, Any]]
    since: Sequence[Mapping[str, Any]]
    unknown_card: Sequence[ExpectedOrder]
    too_many: Sequence[ExpectedOrder]
    cards: Collection[str]
    limit: int

    @classmethod
    def draw(cls) -> Self:
        ours, others = orders(1, 40), orders(2, 12)
        expected = sorted(map(expected_order, ours), key=lambda order: order.points)
        *_, below, third, second, first = expected
        assert below.points < third.points
        cards = {order.card for order in map(expected_order, (*ours, *others)) if order.card}
        strange = below.card
        assert strange not in {third.card, second.card, first.card}
        is_strange = {
            order.order_id for order in map(expected_order, (*ours, *others))
            if order.card == strange
        }  # fmt: skip
        return cls(
            before=ours,
            since=[each for each in others if expected_order(each).order_id not in is_strange],
            unknown_card=[order for order in expected if order.order_id in is_strange],
            too_many=(third, second, first),
            cards=cards - {strange},
            limit=below.points,
        )


@pytest.mark.timeout(300)
async def test_older_copy_is_brought_right(
    place: tuple[Place, PostgresServer | None], tmp_path: Path
) -> None:
    """
    P2, P3. Of what is open in the copy, some was booked since, some was rejected since, some was
    released by a person since, and some is still held.
    """
    where, postgres = place
    cases = Cases.draw()
    strange, posted = len(cases.unknown_card), len(cases.before)
    settings = {"RELAY_CARD_PATIENCE": "1s", "RELAY_POINTS_LIMIT": str(cases.limit)}
    async with running_fleet(tmp_path, where, members="registered") as fleet:
        for card in cases.cards:
            await fleet.sandbox.register_member(card)
        service = fleet.add(Role.SERVE, settings=settings, keeps_log=True)
        service.start()
        await service.wait_ready()
        first = await delivered(service, cases.before[:_APPLIED])
        await wait_for(where, "order", "applied", _APPLIED)
        for operation in ("credit", "order.create"):
            fleet.sandbox.add_fault(FaultRule(operation, "429", count=None, retry_after=60))
        middle = await delivered(service, cases.before[_APPLIED:])
        await until(
            lambda: are_postponed(where, 2 * posted), what="what is open waits", timeout_s=60
        )
        assert await service.stop() == 0
        copied = states(where)
        for kind in ("order", "earn"):
            assert copied[kind, "applied"] and copied[kind, "due"]
        copied_at = datetime.now(UTC)
        put_back = copy_ledger(where, postgres)

        fleet.sandbox.clear_faults()
        let_time_pass(where.ledger, seconds=120)
        service.start()
        await service.wait_ready()
        await release(fleet, service, f"main:earn:{cases.too_many[0].order_id}")
        second = await delivered(service, cases.since)
        posted += len(cases.since)
        await wait_for(where, "order", "applied", posted)
        await wait_for(where, "earn", "rejected", strange)
        held_since = states(where).get(("earn", "held"), 0)
        await wait_for(where, "earn", "applied", posted - strange - held_since)
        assert await service.stop() == 0

        put_back()
        assert states(where) == copied
        # Whatever is due in the copy would be sent at once.
        let_time_pass(where.ledger, seconds=120)
        await assert_refused(fleet, where)
        assert "are looked up before they are sent" in await recover(fleet, since=copied_at)
        service.start()
        await service.wait_ready()
        # What a person had released is found by itself, as Splio shows it.
        await wait_for(where, "earn", "held", held_since)
        for (key,) in where.ledger.rows(_HELD):
            await release(fleet, service, key)
        await fleet.rest(first, middle, second)
        await fleet.assert_exact(
            first,
            middle,
            second,
            set_aside={(order.order_id, "earn") for order in cases.unknown_card},
        )
        assert states(where) == {
            ("order", "applied"): posted,
            ("earn", "applied"): posted - strange,
            ("earn", "rejected"): strange,
        }
        await fleet.stop()


@pytest.mark.timeout(300)
async def test_lost_ledger_is_made_anew_from_the_log(
    place: tuple[Place, PostgresServer | None], tmp_path: Path
) -> None:
    """P2, P3: everything is found at Splio, and what was not there yet is booked."""
    where, postgres = place
    begun_at = datetime.now(UTC)
    async with running_fleet(tmp_path, where) as fleet:
        service = fleet.add(Role.SERVE, keeps_log=True)
        fleet.sandbox.add_fault(FaultRule("credit", "429", count=None, skip=10, retry_after=60))
        service.start()
        await service.wait_ready()
        load = await delivered(service, orders(4, 20))
        await wait_for(where, "order", "applied", 20)
        await wait_for(where, "earn", "applied", 10)
        assert await service.stop() == 0
        fleet.sandbox.clear_faults()
        empty_ledger(where, postgres)()
        await assert_refused(fleet, where)
        await recover(fleet, since=begun_at)
        service.start()
        await service.wait_ready()
        await fleet.rest(load)
        await fleet.assert_exact(load)
        requests = (await fleet.sandbox.statement())["requests"]["credit"]
        assert sum(count for status, count in requests.items() if status != "429") == 20
        await fleet.stop()


@pytest.mark.timeout(300)
async def test_recover_refuses_while_something_runs_on_the_ledger(
    place: tuple[Place, PostgresServer | None], tmp_path: Path
) -> None:
    where, _ = place
    async with running_fleet(tmp_path, where) as fleet:
        service = await fleet.started(Role.SERVE)
        load = await delivered(service, orders(5, 4))
        await fleet.rest(load)
        code, output = await fleet.command("recover", "--since", "1h")
        assert code == 1, output
        assert ("consumers_run" if where.is_shared else "already_running") in output
        assert service.is_running
        await fleet.stop()
        await recover(fleet, since=datetime.now(UTC))


@pytest.mark.timeout(300)
async def test_running_consumers_end_when_the_ledger_goes_back_under_them(
    kafka_server: KafkaServer, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """P2: planned anew as if nothing had happened, its effects would be sent a second time."""
    place = await make_place(
        tmp_path, log="kafka", ledger="postgres", kafka=kafka_server, postgres=postgres_server
    )
    async with running_fleet(tmp_path, place) as fleet:
        receiver = await fleet.started(Role.RECEIVE)
        consumers = [await fleet.started(Role.CONSUME) for _ in range(2)]
        first = await delivered(receiver, orders(6, 12))
        await fleet.rest(first)
        for consumer in consumers:
            assert await consumer.stop() == 0
        copied_at = datetime.now(UTC)
        put_back = copy_ledger(place, postgres_server)
        for consumer in consumers:
            consumer.start()
            await consumer.wait_ready()
        second = await delivered(receiver, orders(7, 24))
        await fleet.rest(first, second)
        put_back()
        third = await delivered(receiver, orders(8, 24))
        for consumer in consumers:
            assert await consumer.wait_exit(timeout_s=60) == 1, consumer.log_text()[-4000:]
            (death,) = lines(consumer, "worker.died")
            assert "ledger_behind_log" in death["traceback"]
        await recover(fleet, since=copied_at)
        for consumer in consumers:
            consumer.start()
            await consumer.wait_ready()
        await fleet.rest(first, second, third)
        await fleet.assert_exact(first, second, third)
        await fleet.stop()
