"""PlanLedger: plans and positions are written together, and every key is known only once."""

import asyncio
from dataclasses import replace

import pytest

from service.domain.effects import EffectKey, Kind, Lane, Outcome, State
from service.domain.errors import WrongStateError
from service.domain.ledger import Disposition, Ledger, Settlement
from service.domain.planning import Plan, Reason
from service.domain.records import Advance, Stream, Topic
from tests.contract.ledger_fixture import (
    APPLIED,
    CONFIG,
    STREAM,
    LedgerHome,
    Records,
    claim,
    dead_letter_plan,
    earn_key,
    earn_only,
    facts_of,
    held_effect,
    order_and_earn,
    order_key,
    order_only,
    plan_one,
    plan_with,
    planned_and_claimed,
    planned_effect,
    ready_keys,
    rejected_effect,
    state_of,
)
from tests.fakes.clock import FakeClock


async def test_an_order_with_a_card_becomes_two_due_effects(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    (result,) = await records.write(ledger, order_and_earn("7"))
    assert result.disposition is Disposition.PLANNED
    order, earn = result.fresh
    assert (order.key, order.kind, order.lane) == (order_key("7"), Kind.ORDER, Lane.SALES)
    assert (earn.key, earn.kind, earn.lane) == (earn_key("7"), Kind.EARN, Lane.OTHER)
    assert (order.order_key, order.event_id, earn.points) == ("7", "event-0", 12)
    assert order.request == planned_effect("7").request
    assert earn.request == planned_effect("7", Kind.EARN).request
    assert order.request_id != earn.request_id
    clock.advance(1)
    assert await ledger.ready(Lane.SALES, limit=9, due_before_ms=clock.now_ms()) == [order]
    assert await ledger.ready(Lane.OTHER, limit=9, due_before_ms=clock.now_ms()) == [earn]


async def test_results_come_in_the_order_of_the_records(ledger: Ledger, records: Records) -> None:
    await records.write(ledger, order_only("1"))
    results = await records.write(
        ledger,
        order_only("2"),
        Plan("3", ignored=Reason.TEST_CUSTOMER),
        dead_letter_plan("4"),
        order_only("1"),
        order_and_earn("5"),
    )
    assert [(item.disposition, len(item.fresh)) for item in results] == [
        (Disposition.PLANNED, 1),
        (Disposition.IGNORED, 0),
        (Disposition.DEAD_LETTER, 0),
        (Disposition.REPEATED, 0),
        (Disposition.PLANNED, 2),
    ]


async def test_many_records_at_once_are_all_written(ledger: Ledger, records: Records) -> None:
    results = await records.write(ledger, *(order_and_earn(str(n)) for n in range(333)))
    assert [len(result.fresh) for result in results] == [2] * 333
    assert (await ledger.tally()).open_effects[Kind.EARN, State.DUE] == 333


async def test_a_repeat_is_counted_and_changes_nothing(ledger: Ledger, records: Records) -> None:
    taken = await planned_and_claimed(ledger, records, order_only("7"))
    results = await records.write(ledger, order_only("7"), order_only("7"))
    assert [result.disposition for result in results] == [Disposition.REPEATED] * 2
    shown = await ledger.show_effect(order_key("7"))
    assert (shown["duplicates_seen"], shown["state"]) == (2, "attempting")
    await ledger.settle(taken, APPLIED)
    (result,) = await records.write(ledger, order_only("7"))
    assert (result.disposition, result.fresh) == (Disposition.REPEATED, ())
    shown = await ledger.show_effect(order_key("7"))
    assert (shown["duplicates_seen"], shown["state"]) == (3, "applied")


async def test_a_repeat_within_one_call_is_planned_once(ledger: Ledger, records: Records) -> None:
    first, second = await records.write(ledger, order_only("7"), order_only("7"))
    assert (first.disposition, len(first.fresh)) == (Disposition.PLANNED, 1)
    assert (second.disposition, second.fresh) == (Disposition.REPEATED, ())
    assert (await ledger.show_effect(order_key("7")))["duplicates_seen"] == 1


async def test_of_a_known_and_an_unknown_key_only_the_unknown_is_inserted(
    ledger: Ledger, records: Records
) -> None:
    await records.write(ledger, earn_only("7"))
    (result,) = await records.write(ledger, order_and_earn("7"))
    assert result.disposition is Disposition.PLANNED
    assert [effect.key for effect in result.fresh] == [order_key("7")]


async def test_points_of_an_order_that_another_way_booked_are_not_booked_by_a_repeat(
    ledger: Ledger, records: Records
) -> None:
    """Planned under `rules`, delivered again after RELAY_POINTS_FROM became `webhook`."""
    await records.write(ledger, order_only("7"))
    (result,) = await records.write(ledger, order_and_earn("7"))
    assert (result.disposition, result.fresh) == (Disposition.REPEATED, ())
    shown = await ledger.show_order("7")
    assert [effect["effect_key"] for effect in shown["effects"]] == [order_key("7")]


async def test_a_contradiction_makes_the_whole_record_a_dead_letter(
    ledger: Ledger, records: Records
) -> None:
    """Nothing of the second is written, also not what the first did not name."""
    await records.write(ledger, order_only("7"))
    other = plan_with(
        "7",
        planned_effect("7", Kind.EARN),
        replace(planned_effect("7"), fingerprint="f1:other"),
    )
    (result,) = await records.write(ledger, other)
    assert (result.disposition, result.fresh) == (Disposition.CONFLICT, ())
    shown = await ledger.show_order("7")
    assert [effect["effect_key"] for effect in shown["effects"]] == [order_key("7")]
    assert shown["effects"][0]["duplicates_seen"] == 0
    (letter,) = shown["dead_letters"]
    assert (letter["reason"], letter["kind"], letter["effect_key"]) == (
        "conflict",
        "event",
        order_key("7"),
    )


async def test_a_contradiction_within_one_call_is_found(ledger: Ledger, records: Records) -> None:
    other = plan_with("7", replace(planned_effect("7"), fingerprint="f1:other"))
    first, second = await records.write(ledger, order_only("7"), other)
    assert first.disposition is Disposition.PLANNED
    assert second.disposition is Disposition.CONFLICT


async def test_a_fingerprint_of_an_unknown_version_counts_as_the_same(
    ledger: Ledger, records: Records
) -> None:
    await records.write(ledger, order_only("7"))
    newer = plan_with("7", replace(planned_effect("7"), fingerprint="f9:whatever"))
    (result,) = await records.write(ledger, newer)
    assert result.disposition is Disposition.REPEATED


async def test_a_dead_letter_seen_before_is_counted(ledger: Ledger, records: Records) -> None:
    """The same reason, order and content; the envelope around the content differs."""
    plan = dead_letter_plan("7")
    for number in range(3):
        envelope = b'{"event_id":"%d","payload":{"id":7,"a":1}}' % number
        await _write_value(ledger, records, plan, envelope)
    (item,) = (await ledger.list_dead_letters()).items
    assert (item["times_seen"], item["reason"], item["order_id"]) == (3, "shop_missing", "7")
    letter = await ledger.dead_letter(item["id"])
    assert letter.record == b'{"event_id":"0","payload":{"id":7,"a":1}}'


@pytest.mark.parametrize(
    ("plan", "value"),
    [
        (dead_letter_plan("7", Reason.PLANNING_FAILED), b'{"payload":{"id":7}}'),
        (dead_letter_plan("8"), b'{"payload":{"id":7}}'),
        (dead_letter_plan("7"), b'{"payload":{"id":7,"x":1}}'),
        (dead_letter_plan("7"), b"\xff no json"),
    ],
    ids=["reason", "order", "content", "not an envelope"],
)
async def test_a_dead_letter_that_differs_is_another(
    ledger: Ledger, records: Records, plan: Plan, value: bytes
) -> None:
    await _write_value(ledger, records, dead_letter_plan("7"), b'{"payload":{"id":7}}')
    await _write_value(ledger, records, plan, value)
    assert len((await ledger.list_dead_letters()).items) == 2


async def test_a_repeated_contradiction_is_one_dead_letter(
    ledger: Ledger, records: Records
) -> None:
    other = plan_with("7", replace(planned_effect("7"), fingerprint="f1:other"))
    third = plan_with("7", replace(planned_effect("7"), fingerprint="f1:third"))
    await records.write(ledger, order_only("7"), other, other, third)
    items = (await ledger.list_dead_letters()).items
    assert [item["times_seen"] for item in items] == [2, 1]


async def test_an_effect_planned_as_rejected_is_a_dead_letter_once(
    ledger: Ledger, records: Records
) -> None:
    plan = plan_with("7", rejected_effect("7"), planned_effect("7", Kind.EARN))
    (result,) = await records.write(ledger, plan)
    assert [effect.key for effect in result.fresh] == [earn_key("7")]
    (again,) = await records.write(ledger, plan)
    assert again.disposition is Disposition.REPEATED
    (item,) = (await ledger.list_dead_letters()).items
    assert (item["kind"], item["effect_key"], item["reason"], item["times_seen"]) == (
        "order",
        order_key("7"),
        "contact_key_missing",
        1,
    )


async def test_a_held_effect_is_not_fresh(ledger: Ledger, records: Records) -> None:
    (result,) = await records.write(ledger, plan_with("7", held_effect("7")))
    assert (result.disposition, result.fresh) == (Disposition.PLANNED, ())
    shown = await ledger.show_effect(earn_key("7"))
    assert (shown["state"], shown["reason"]) == ("held", "points_over_limit")


async def test_positions_move_with_the_plans(
    ledger_home: LedgerHome, ledger: Ledger, records: Records
) -> None:
    other = Stream(Topic.ORDERS, 1)
    unread = Stream(Topic.UNREADABLE, 0)
    assert await ledger.positions([STREAM, other]) == {}
    await ledger.record_plans(
        [records.planned(order_only("1"))], [Advance(STREAM, 0, 1), Advance(other, 5, 9)]
    )
    await ledger.record_plans([], [Advance(STREAM, 1, 4)])
    assert await ledger.positions([STREAM, other, unread]) == {STREAM: 4, other: 9}
    assert await ledger.positions([other]) == {other: 9}


async def test_a_reader_that_was_overtaken_writes_nothing(ledger: Ledger, records: Records) -> None:
    other = Stream(Topic.ORDERS, 1)
    await ledger.record_plans([], [Advance(STREAM, 0, 3), Advance(other, 0, 3)])
    with pytest.raises(WrongStateError, match="position_moved"):
        await ledger.record_plans(
            [records.planned(order_only("1")), records.planned(dead_letter_plan("2"))],
            [Advance(other, 3, 4), Advance(STREAM, 2, 4)],
        )
    assert await ledger.positions([STREAM, other]) == {STREAM: 3, other: 3}
    assert (await ledger.list_effects()).items == []
    assert (await ledger.list_dead_letters()).items == []


async def test_of_two_readers_at_once_one_goes_on(ledger: Ledger, records: Records) -> None:
    """And the one that fails does not harm the other, though they may share a commit."""
    results = await asyncio.gather(
        ledger.record_plans([records.planned(order_only("1"))], [Advance(STREAM, 0, 1)]),
        ledger.record_plans([records.planned(order_only("2"))], [Advance(STREAM, 0, 1)]),
        return_exceptions=True,
    )
    assert sum(isinstance(result, WrongStateError) for result in results) == 1
    assert len((await ledger.list_effects()).items) == 1


async def test_what_was_planned_is_there_after_opening_again(
    ledger_home: LedgerHome, records: Records
) -> None:
    async with ledger_home.open(CONFIG) as ledger:
        effect = await plan_one(ledger, records, order_only("7"))
    async with ledger_home.open(CONFIG) as ledger:
        assert await ledger.positions([STREAM]) == {STREAM: 1}
        assert (await claim(ledger, effect)).effect == effect
        assert await ledger.order_facts(["7"]) == {"7": facts_of("7")}


async def test_facts_of_unknown_orders_are_missing(ledger: Ledger, records: Records) -> None:
    await records.write(ledger, order_only("7"), earn_only("8"))
    assert await ledger.order_facts(["6", "7", "8"]) == {"7": facts_of("7"), "8": facts_of("8")}
    assert await ledger.order_facts([]) == {}


async def test_what_was_first_known_of_an_order_stands(ledger: Ledger, records: Records) -> None:
    await records.write(ledger, order_only("7"))
    later = replace(order_and_earn("7"), facts=replace(facts_of("7"), card=None))
    await records.write(ledger, later)
    assert await ledger.order_facts(["7"]) == {"7": facts_of("7")}


def follower_of(predecessor: EffectKey) -> Plan:
    return plan_with("7", replace(planned_effect("7", Kind.EARN), after=predecessor))


async def test_a_follower_waits_until_the_effect_before_it_was_applied(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    (waiting,) = await records.write(ledger, follower_of(order_key("7")))
    assert waiting.fresh == ()
    assert await state_of(ledger, earn_key("7")) == "blocked"
    taken = await planned_and_claimed(ledger, records, order_only("7"))
    assert await ready_keys(ledger, Lane.OTHER, before_ms=clock.now_ms() + 1) == []
    await ledger.settle(taken, APPLIED)
    assert await ready_keys(ledger, Lane.OTHER, before_ms=clock.now_ms() + 1) == [earn_key("7")]


async def test_a_follower_planned_in_the_same_record_waits(
    ledger: Ledger, records: Records
) -> None:
    follower = replace(planned_effect("7", Kind.EARN), after=order_key("7"))
    (result,) = await records.write(ledger, plan_with("7", planned_effect("7"), follower))
    assert [effect.key for effect in result.fresh] == [order_key("7")]
    assert await state_of(ledger, earn_key("7")) == "blocked"


async def test_a_follower_is_void_when_what_it_waits_for_is_planned_as_rejected(
    ledger: Ledger, records: Records
) -> None:
    """In whichever order the two come, and what waits for the follower too."""
    follower = replace(planned_effect("7", Kind.EARN), after=order_key("7"))
    second = replace(planned_effect("7:2", Kind.EARN), order_key="7", after=earn_key("7"))
    await records.write(ledger, plan_with("7", follower, second))
    await records.write(ledger, plan_with("7", rejected_effect("7")))
    assert await state_of(ledger, earn_key("7")) == "void"
    assert await state_of(ledger, earn_key("7:2")) == "void"
    later = replace(planned_effect("7:3", Kind.EARN), order_key="7", after=earn_key("7"))
    await records.write(ledger, plan_with("7", later))
    assert await state_of(ledger, earn_key("7:3")) == "void"


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome.APPLIED, "due"),
        (Outcome.DUPLICATE, "due"),
        (Outcome.REJECTED, "void"),
        (Outcome.IN_DOUBT, "blocked"),
    ],
)
async def test_a_follower_planned_later_finds_what_became_of_its_predecessor(
    ledger: Ledger, records: Records, outcome: Outcome, state: str
) -> None:
    taken = await planned_and_claimed(ledger, records, order_only("7"))
    await ledger.settle(taken, Settlement(outcome))
    (result,) = await records.write(ledger, follower_of(order_key("7")))
    assert await state_of(ledger, earn_key("7")) == state
    assert len(result.fresh) == (state == "due")


async def _write_value(ledger: Ledger, records: Records, plan: Plan, value: bytes) -> None:
    planned = records.planned(plan, value=value)
    offset = planned.record.offset
    await ledger.record_plans([planned], [Advance(STREAM, offset, offset + 1)])


async def test_bodies_whose_payload_is_empty_are_not_taken_for_one(
    ledger: Ledger, records: Records
) -> None:
    """P3: what tells them apart stands elsewhere in the body."""
    plan = Plan(dead_letter=Reason.UNREADABLE)
    for number in (1, 2, 2):
        value = b'{"type":"order-confirmed","payload":{},"data":{"id":%d}}' % number
        await _write_value(ledger, records, plan, value)
    letters = (await ledger.list_dead_letters()).items
    assert [letter["times_seen"] for letter in letters] == [1, 2]
