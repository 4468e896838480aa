"""What only the ledger on PostgreSQL promises: several processes on it, each in the others' way."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from service.domain.call_planning import CallPlanner, CallPolicy
from service.domain.checkout import Call, CallOperation, Reading, Spending
from service.domain.effects import Kind, Lane, Outcome
from service.domain.errors import WrongStateError
from service.domain.ledger import (
    Disposition,
    PurgeReport,
    Settlement,
)
from service.domain.planning import Plan
from service.ledger.sql_ledger import SqlLedger
from service.splio.requests import SplioRenderer
from tests.contract.ledger_fixture import (
    APPLIED,
    RETENTION_S,
    Records,
    claim,
    dead_letter_plan,
    earn_key,
    earn_only,
    held_effect,
    order_key,
    order_only,
    planned_effect,
    rejected_effect,
    state_of,
)
from tests.harness.postgres_server import PostgresServer
from tests.integration.shared_ledger import (
    SharedHome,
    plan,
    plan_fresh,
    shared_home,
)


@pytest.fixture
def home(postgres_server: PostgresServer) -> Iterator[SharedHome]:
    with shared_home(postgres_server) as home:
        yield home


@pytest.fixture
def records() -> Records:
    return Records()


def follower(order_id: str) -> Plan:
    """A booking that waits for its order, without facts that both would write."""
    effect = replace(planned_effect(order_id, Kind.EARN), after=order_key(order_id))
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


# -- what is old


async def test_a_dead_letter_that_is_seen_again_while_it_is_purged_stays(
    home: SharedHome, records: Records
) -> None:
    """P3: its new delivery was counted as a repeat, so nothing else tells of it."""
    async with home.two() as (one, two, hold):
        await plan(two, records, dead_letter_plan("7"))
        home.clock.advance(RETENTION_S + 1)
        hold.arm()
        repeating = asyncio.create_task(plan(one, records, dead_letter_plan("7")))
        await hold.reached()
        purging = asyncio.create_task(two.purge(limit=10))
        await home.done_or_waiting(purging)
        hold.let_go()
        ((result,), report) = await asyncio.gather(repeating, purging)
        assert (result.disposition, report) == (Disposition.REPEATED, PurgeReport())
        (item,) = (await two.list_dead_letters()).items
        assert (await two.dead_letter(item["id"])).times_seen == 2


async def test_what_a_replay_brings_back_is_not_purged(home: SharedHome, records: Records) -> None:
    async with home.two() as (one, two, hold):
        await plan(two, records, Plan("7", (rejected_effect("7"),), None))
        (letter,) = (await two.list_dead_letters()).items
        home.clock.advance(RETENTION_S + 1)
        hold.arm()
        replaying = asyncio.create_task(
            one.replay(letter["id"], records.planned(order_only("7")), by="anna")
        )
        await hold.reached()
        purging = asyncio.create_task(two.purge(limit=10))
        await home.done_or_waiting(purging)
        hold.let_go()
        await asyncio.gather(replaying, purging)
        (effect,) = await two.ready(Lane.SALES, limit=9, due_before_ms=home.clock.now_ms() + 1)
        await two.settle(await claim(two, effect), Settlement(Outcome.REJECTED, reason="x"))
        *_, letter = (await two.list_dead_letters()).items
        assert (await two.dead_letter(letter["id"])).record


async def test_a_hold_is_not_ended_while_another_process_sends_its_debit(
    home: SharedHome,
) -> None:
    """Else the points are taken by hand and by the debit."""
    planner = CallPlanner(CallPolicy("main", rewards=((1, "PT1"),)), SplioRenderer())
    spending = Spending("club", "k1", "7", "2171707962088", 5, 5, "EUR")
    call = Call(CallOperation.CAPTURE, "k1", "7", b"{}", home.clock.now_ms(), "")
    capture = planner.capture(spending, call)
    async with home.two() as (one, two, hold):
        (debit,) = (await two.record_capture(capture)).fresh
        hold.arm()
        claiming = asyncio.create_task(claim(one, debit))
        await hold.reached()
        ending = asyncio.create_task(two.end_hold(capture.key, by="anna"))
        await home.done_or_waiting(ending)
        hold.let_go()
        await claiming
        with pytest.raises(WrongStateError, match="debits_under_way"):
            await ending
        assert await state_of(two, debit.key) == "attempting"


async def test_calls_and_records_of_two_processes_wait_for_each_other_in_one_order(
    home: SharedHome, postgres_server: PostgresServer
) -> None:
    """A deadlock costs both a second, and a checkout waits no longer than three."""
    planner = CallPlanner(CallPolicy("main", rewards=((1, "PT1"),)), SplioRenderer())
    before = len(postgres_server.log_text())

    async def work(ledger: SqlLedger, name: str) -> None:
        for number in range(25):
            order = f"{name}{number}"
            spending = Spending("club", order, order, "2171707962088", 5, 5, "EUR")
            call = Call(CallOperation.CAPTURE, order, order, b"{}", home.clock.now_ms(), "")
            await asyncio.gather(
                ledger.record_plans([Records().planned(order_only(order))], []),
                ledger.record_balance(Reading("2171707962088", 99, home.clock.now_ms())),
                ledger.record_capture(planner.capture(spending, call)),
            )

    async with home.two() as (one, two, _):
        await asyncio.gather(work(one, "a"), work(two, "b"))
    assert "deadlock detected" not in postgres_server.log_text()[before:]
