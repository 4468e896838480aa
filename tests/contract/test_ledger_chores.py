"""ChoreLedger: counts of what is open, and purging that never takes a key."""

from service.domain.effects import Kind, Outcome, State
from service.domain.ledger import Disposition, Ledger, PurgeReport, Settlement
from service.ledger.sql_ledger import SqlLedger
from tests.contract.ledger_fixture import (
    APPLIED,
    ORDERS_RETENTION_S,
    RETENTION_S,
    Records,
    claim,
    dead_letter_plan,
    earn_key,
    held_effect,
    in_doubt,
    order_and_earn,
    order_key,
    order_only,
    plan_with,
    planned_and_claimed,
    planned_effect,
    state_of,
)
from tests.fakes.clock import FakeClock


async def test_an_empty_ledger_counts_nothing(ledger: Ledger) -> None:
    tally = await ledger.tally()
    assert (tally.open_effects, tally.oldest_open_ms) == ({}, {})
    assert (tally.open_dead_letters, tally.unseen_credits, tally.oldest_unseen_ms) == (0, 0, None)


async def test_open_effects_are_counted_by_kind_and_state(ledger: Ledger, records: Records) -> None:
    applied = await planned_and_claimed(ledger, records, order_only("0"))
    await ledger.settle(applied, APPLIED)
    await records.write(ledger, order_and_earn("1"), order_and_earn("2"))
    await planned_and_claimed(ledger, records, order_only("3"))
    await in_doubt(ledger, records, order_only("4"))
    await records.write(ledger, plan_with("5", held_effect("5")))
    rejected = await planned_and_claimed(ledger, records, order_only("6"))
    await ledger.settle(rejected, Settlement(Outcome.REJECTED, reason="refused"))
    await records.write(ledger, dead_letter_plan("7"))
    tally = await ledger.tally()
    assert tally.open_effects == {
        (Kind.ORDER, State.DUE): 2,
        (Kind.EARN, State.DUE): 2,
        (Kind.ORDER, State.ATTEMPTING): 1,
        (Kind.ORDER, State.IN_DOUBT): 1,
        (Kind.EARN, State.HELD): 1,
    }
    oldest = records.received_at_ms + 1
    assert tally.oldest_open_ms == {Kind.ORDER: oldest, Kind.EARN: oldest}
    assert tally.open_dead_letters == 2


async def settled(ledger: Ledger, records: Records, order_id: str) -> None:
    await ledger.settle(await planned_and_claimed(ledger, records, order_only(order_id)), APPLIED)


async def test_what_is_past_its_retention_is_removed_and_keys_stay(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    await settled(ledger, records, "7")
    clock.advance(RETENTION_S)
    assert await ledger.purge(limit=10) == PurgeReport()
    clock.advance(0.001)
    assert await ledger.purge(limit=10) == PurgeReport(bodies=1, records=1, attempts=1)
    assert await ledger.purge(limit=10) == PurgeReport()
    assert await state_of(ledger, order_key("7")) == "applied"
    (result,) = await records.write(ledger, order_only("7"))
    assert result.disposition is Disposition.REPEATED


async def test_facts_of_orders_live_longer(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    await settled(ledger, records, "7")
    clock.advance(ORDERS_RETENTION_S)
    assert (await ledger.purge(limit=10)).orders == 0
    clock.advance(0.001)
    assert (await ledger.purge(limit=10)).orders == 1
    assert await ledger.order_facts(["7"]) == {}


async def test_a_purge_removes_no_more_than_its_limit(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    for number in range(5):
        await settled(ledger, records, str(number))
    clock.advance(RETENTION_S + 1)
    removed = [(await ledger.purge(limit=2)).bodies for _ in range(4)]
    assert removed == [2, 2, 1, 0]


async def test_what_open_effects_need_is_kept(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    """And does not keep what comes behind it from being removed."""
    for number in range(4):
        await records.write(ledger, plan_with(f"h{number}", held_effect(f"h{number}")))
    await settled(ledger, records, "7")
    clock.advance(RETENTION_S + 1)
    removed = [(await ledger.purge(limit=2)).bodies for _ in range(3)]
    assert sum(removed) == 1
    for number in range(4):
        await ledger.release(earn_key(f"h{number}"), by="anna")
    effects = await ledger.ready(
        planned_effect("0", Kind.EARN).lane, limit=9, due_before_ms=clock.now_ms() + 1
    )
    assert len(effects) == 4
    taken = await claim(ledger, effects[0])
    await ledger.settle(taken, Settlement(Outcome.REJECTED, reason="refused"))
    (item,) = (await ledger.list_dead_letters()).items
    assert (await ledger.dead_letter(item["id"])).record == b'{"payload":{"id":"1"}}'


async def test_dead_letters_and_their_records_go_together(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    await records.write(ledger, dead_letter_plan("7"))
    clock.advance(RETENTION_S - 1)
    await records.write(ledger, dead_letter_plan("7"))  # seen again: lives on, and so its bytes
    clock.advance(2)
    assert await ledger.purge(limit=10) == PurgeReport()
    (item,) = (await ledger.list_dead_letters()).items
    assert (await ledger.dead_letter(item["id"])).times_seen == 2
    clock.advance(RETENTION_S)
    report = await ledger.purge(limit=10)
    assert (report.dead_letters, report.records) == (1, 1)
    assert (await ledger.list_dead_letters()).items == []


async def test_a_replayed_effect_keeps_its_record(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    await records.write(ledger, dead_letter_plan("7"))
    (item,) = (await ledger.list_dead_letters()).items
    plan = plan_with("7", held_effect("7"))
    await ledger.replay(item["id"], records.planned(plan), by="anna")
    clock.advance(RETENTION_S + 1)
    assert await ledger.purge(limit=10) == PurgeReport(dead_letters=1)
    await ledger.reject(earn_key("7"), by="anna")
    (item,) = (await ledger.list_dead_letters()).items
    assert (await ledger.dead_letter(item["id"])).record == b'{"payload":{"id":"1"}}'


async def test_a_ledger_answers(ledger: Ledger) -> None:
    await ledger.ping()
    free = ledger.free_bytes()
    assert free is None or free > 0


async def test_an_older_shape_never_replaces_a_younger(ledger: Ledger) -> None:
    assert isinstance(ledger, SqlLedger)
    await ledger.record_shapes([("b", "first", 2), ("a", "other", 1)])
    assert await ledger.shapes() == ["other", "first"]
    await ledger.record_shapes([("b", "older", 1)])
    assert await ledger.shapes() == ["other", "first"]
    await ledger.record_shapes([("b", "younger", 3)])
    assert await ledger.shapes() == ["other", "younger"]
