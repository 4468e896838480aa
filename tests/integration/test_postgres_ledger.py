"""What only the ledger on PostgreSQL promises: several processes on it, each in the others' way."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from service.domain.effects import Kind, Lane, Outcome, State
from service.domain.ledger import LookUp, LookUpVerdict, Settlement
from service.domain.planning import Plan
from service.ledger.sql_ledger import SqlLedger
from tests.contract.ledger_fixture import (
    APPLIED,
    Records,
    claim,
    dead_letter_plan,
    earn_key,
    earn_only,
    held_effect,
    order_and_earn,
    order_key,
    order_only,
    planned_effect,
    rejected_effect,
    state_of,
)
from tests.harness.postgres_server import PostgresServer
from tests.integration.shared_ledger import SharedHome, plan, plan_fresh, shared_home


@pytest.fixture
def home(postgres_server: PostgresServer) -> Iterator[SharedHome]:
    with shared_home(postgres_server) as home:
        yield home


@pytest.fixture
def records() -> Records:
    return Records()


def follower(order_id: str, state: State = State.DUE) -> Plan:
    """A booking that waits for its order, without facts that both would write."""
    effect = replace(planned_effect(order_id, Kind.EARN), after=order_key(order_id), state=state)
    return Plan(order_id, (effect,), None)


# -- followers whose predecessor moves meanwhile


@pytest.mark.parametrize(
    ("predecessor", "expected"), [("applied", "due"), ("rejected", "void"), ("planned", "blocked")]
)
async def test_a_follower_is_not_left_behind_by_a_predecessor_planned_meanwhile(
    home: SharedHome, records: Records, predecessor: str, expected: str
) -> None:
    """P5: also where the predecessor is planned and settled before the follower's commit."""
    async with home.two() as (one, two, hold):
        hold.arm()
        planning = asyncio.create_task(plan(one, records, follower("7")))
        await hold.reached()

        async def other() -> None:
            if predecessor == "rejected":
                await plan(two, records, Plan("7", (rejected_effect("7"),), None))
                return
            effect = await plan_fresh(two, records, order_only("7"))
            if predecessor == "applied":
                await two.settle(await claim(two, effect), APPLIED)

        others = asyncio.create_task(other())
        await home.done_or_waiting(others)
        hold.let_go()
        await asyncio.gather(planning, others)
        assert await state_of(two, earn_key("7")) == expected


async def test_a_released_follower_is_not_left_behind_by_a_predecessor_planned_meanwhile(
    home: SharedHome, records: Records
) -> None:
    effect = replace(held_effect("7"), after=order_key("7"))
    async with home.two() as (one, two, hold):
        await plan(one, records, Plan("7", (effect,), None))
        hold.arm()
        releasing = asyncio.create_task(one.release(earn_key("7"), by="anna"))
        await hold.reached()

        async def other() -> None:
            order = await plan_fresh(two, records, order_only("7"))
            await two.settle(await claim(two, order), APPLIED)

        others = asyncio.create_task(other())
        await home.done_or_waiting(others)
        hold.let_go()
        await asyncio.gather(releasing, others)
        assert await state_of(two, earn_key("7")) == "due"


async def test_a_follower_planned_while_its_predecessor_is_settled_is_due(
    home: SharedHome, records: Records
) -> None:
    async with home.two() as (one, two, hold):
        order = await claim(two, await plan_fresh(two, records, order_only("7")))
        hold.arm()
        planning = asyncio.create_task(plan(one, records, follower("7")))
        await hold.reached()
        settling = asyncio.create_task(two.settle(order, APPLIED))
        await home.done_or_waiting(settling)
        assert not settling.done()
        hold.let_go()
        await asyncio.gather(planning, settling)
        assert await state_of(two, earn_key("7")) == "due"


async def test_a_chain_planned_while_its_beginning_is_rejected_is_void(
    home: SharedHome, records: Records
) -> None:
    """The last of three is planned while the first is rejected, which voids the second."""
    last = replace(planned_effect("8", Kind.EARN), after=earn_key("7"))
    async with home.two() as (one, two, hold):
        order = await claim(two, await plan_fresh(two, records, order_only("7")))
        await plan(two, records, follower("7"))
        hold.arm()
        planning = asyncio.create_task(plan(one, records, Plan("8", (last,), None)))
        await hold.reached()
        settling = asyncio.create_task(two.settle(order, Settlement(Outcome.REJECTED, reason="x")))
        await home.done_or_waiting(settling)
        hold.let_go()
        await asyncio.gather(planning, settling)
        assert await state_of(two, earn_key("7")) == "void"
        assert await state_of(two, earn_key("8")) == "void"
        told = {entry.notice.effect_key for entry in await two.outbox(limit=10)}
        assert {earn_key("7"), earn_key("8")} <= told


# -- credits seen at Splio


async def test_a_credit_seen_while_its_attempt_is_settled_is_not_due(
    home: SharedHome, records: Records
) -> None:
    """P2: whichever of the two is first, it is looked up before it is sent again."""
    async with home.two() as (one, two, hold):
        taken = await claim(two, await plan_fresh(two, records, earn_only("7")))
        hold.arm()
        settling = asyncio.create_task(
            one.settle(taken, Settlement(Outcome.RETRY, due_at_ms=home.clock.now_ms()))
        )
        await hold.reached()
        seeing = asyncio.create_task(two.mark_seen([earn_key("7")], "c1"))
        await home.done_or_waiting(seeing)
        hold.let_go()
        await asyncio.gather(settling, seeing)
        assert await state_of(two, earn_key("7")) == "in_doubt"


# -- statements


_MANY = """
INSERT INTO effects (effect_key, kind, lane, order_key, fingerprint, state, due_at, event_id,
    traceparent, points, received_at, created_at, settled_at, seen_at, body_id, record_id)
SELECT 'main:order:x' || n, 'order', 'sales', 'x' || n, 'f1', 'applied', n, 'e', 't', 1, n, n, n,
    n, n, n FROM generate_series(1, 60000) AS n;
INSERT INTO bodies SELECT n, 'main:order:x' || n, '/p', '', NULL, NULL
    FROM generate_series(1, 60000) AS n;
INSERT INTO records SELECT n, 't', 0, n, NULL, '{}', '', n, 'e', '[]'
    FROM generate_series(1, 60000) AS n;
INSERT INTO dead_letters (dedupe_key, kind, event_id, reason, detail, record_id, at, last_seen_at)
    SELECT 'event:x' || n, 'event', 'e', 'r', '', n, n, n FROM generate_series(1, 60000) AS n;
"""


async def one_of_each(ledger: SqlLedger, records: Records, home: SharedHome, order: str) -> None:
    """What the ledger does all the time, on three effects."""
    results = await plan(
        ledger, records, order_and_earn(order), order_only(f"{order}r"), follower(f"{order}f")
    )
    await plan(ledger, records, order_only(order))
    await plan(ledger, records, dead_letter_plan(order))
    for result, outcome in zip(
        [effect for result in results for effect in result.fresh],
        (Outcome.APPLIED, Outcome.IN_DOUBT, Outcome.REJECTED),
        strict=True,
    ):
        taken = await claim(ledger, result)
        await ledger.settle(taken, Settlement(outcome, reason="x"))
    for lane in (Lane.SALES, Lane.OTHER):
        await ledger.ready(lane, limit=10, due_before_ms=home.clock.now_ms())
    await ledger.expire_leases()
    for doubt in await ledger.doubts(limit=64):
        await ledger.record_look_up(doubt, LookUp(LookUpVerdict.FOUND))
    await ledger.mark_seen([earn_key(order)], None)
    await ledger.remove_published([entry.id for entry in await ledger.outbox(limit=100)])
    await ledger.show_order(order)
    await ledger.list_effects(states=[State.HELD, State.DUE])
    await ledger.tally()


async def test_no_statement_reads_all_keys_however_the_ledger_grew(
    home: SharedHome, records: Records
) -> None:
    """What was prepared on an empty ledger is kept, and must not read a full one from end to end."""
    read = (
        "SELECT relname, seq_tup_read FROM pg_stat_user_tables WHERE relname IN "
        "('effects', 'bodies', 'records', 'attempts', 'orders', 'dead_letters') ORDER BY relname"
    )

    for table in ("effects", "bodies", "records", "attempts", "orders", "dead_letters"):
        home.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    async with home.open("one") as ledger:
        for number in range(12):
            await one_of_each(ledger, records, home, f"a{number}")
        home.execute(_MANY)
        before = home.rows(read)
        await one_of_each(ledger, records, home, "b")
    after = home.rows(read)
    grown = {
        str(table): int(str(now)) - int(str(then))
        for (table, then), (_, now) in zip(before, after, strict=True)
    }
    assert all(rows < 30_000 for rows in grown.values()), grown
