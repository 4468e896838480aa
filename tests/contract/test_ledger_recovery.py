"""Recovering a ledger that is behind its log (P2): what may be at Splio is looked up first."""

from dataclasses import replace

from service.domain.effects import Kind, Outcome
from service.domain.ledger import Chore, Ledger, LookUp, LookUpVerdict, Settlement
from service.domain.records import Advance
from tests.contract.ledger_fixture import (
    APPLIED,
    CONFIG,
    CREDITS_VISIBLE_AFTER_S,
    LEASE_S,
    ORDERS_VISIBLE_AFTER_S,
    STREAM,
    LedgerHome,
    Records,
    claim,
    earn_key,
    earn_only,
    held_effect,
    in_doubt,
    order_key,
    order_only,
    plan_with,
    planned_and_claimed,
    planned_effect,
    rejected_effect,
    state_of,
)
from tests.fakes.clock import FakeClock


async def test_open_effects_are_looked_up_before_they_are_sent(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    await records.write(ledger, order_only("due"))
    await planned_and_claimed(ledger, records, earn_only("attempting"))
    await records.write(ledger, plan_with("held", held_effect("held")))
    done = await planned_and_claimed(ledger, records, order_only("done"))
    await ledger.settle(done, APPLIED)
    end = records.next_offset

    recovery = await ledger.recover({STREAM: end}, {STREAM: end})

    assert recovery.effects_in_doubt == 3
    assert await state_of(ledger, order_key("due")) == "in_doubt"
    assert await state_of(ledger, earn_key("attempting")) == "in_doubt"
    assert await state_of(ledger, order_key("done")) == "applied"
    doubt = await ledger.doubt(order_key("due"))
    assert doubt is not None
    assert doubt.absence_counts_from_ms == clock.now_ms() + ORDERS_VISIBLE_AFTER_S * 1000
    await ledger.release(earn_key("held"), by="anna")
    assert await state_of(ledger, earn_key("held")) == "in_doubt"


async def test_a_follower_is_looked_up_when_it_is_released(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    follower = replace(planned_effect("1", Kind.EARN), after=order_key("1"))
    await records.write(ledger, plan_with("1", planned_effect("1"), follower))
    end = records.next_offset
    await ledger.recover({STREAM: end}, {STREAM: end})
    assert await state_of(ledger, earn_key("1")) == "blocked"
    doubt = await ledger.doubt(order_key("1"))
    assert doubt is not None
    await ledger.record_look_up(doubt, LookUp(LookUpVerdict.FOUND))
    assert await state_of(ledger, earn_key("1")) == "in_doubt"


async def test_a_rejected_effect_is_looked_up_when_it_is_replayed(
    ledger: Ledger, records: Records
) -> None:
    taken = await planned_and_claimed(ledger, records, order_only("1"))
    await ledger.settle(taken, Settlement(Outcome.REJECTED, reason="refused"))
    end = records.next_offset
    await ledger.recover({STREAM: end}, {STREAM: end})
    (item,) = (await ledger.list_dead_letters()).items
    result = await ledger.replay(item["id"], records.planned(order_only("1")), by="anna")
    assert result.fresh == ()
    assert await state_of(ledger, order_key("1")) == "in_doubt"


async def test_records_that_were_planned_before_are_planned_in_doubt(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    """The copy knows the first; the others were planned after it was made, the last never."""
    await records.write(ledger, order_only("known"))
    await ledger.recover({STREAM: 0}, {STREAM: 3})
    assert await ledger.positions([STREAM]) == {STREAM: 0}
    replanned = [order_only("known"), earn_only("again")]
    again = [Records(next_offset=n).planned(plan) for n, plan in enumerate(replanned)]
    results = await ledger.record_plans(again, [Advance(STREAM, 0, 2)])
    assert [result.fresh for result in results] == [(), ()]
    doubt = await ledger.doubt(earn_key("again"))
    assert doubt is not None
    assert doubt.absence_counts_from_ms == clock.now_ms() + CREDITS_VISIBLE_AFTER_S * 1000
    held = Records(next_offset=2).planned(plan_with("h", held_effect("h")))
    new = Records(next_offset=3).planned(order_only("new"))
    results = await ledger.record_plans([held, new], [Advance(STREAM, 2, 4)])
    assert [len(result.fresh) for result in results] == [0, 1]
    assert await state_of(ledger, order_key("new")) == "due"
    await ledger.release(earn_key("h"), by="anna")
    assert await state_of(ledger, earn_key("h")) == "in_doubt"


async def test_absence_of_a_recovered_effect_lets_it_be_sent_once_more(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    await ledger.recover({}, {STREAM: 1})
    await ledger.recover({STREAM: 0}, {STREAM: 1})
    planned = Records().planned(order_only("7"))
    await ledger.record_plans([planned], [Advance(STREAM, 0, 1)])
    clock.advance(ORDERS_VISIBLE_AFTER_S)
    doubt = await ledger.doubt(order_key("7"))
    assert doubt is not None
    await ledger.record_look_up(doubt, LookUp(LookUpVerdict.ABSENT))
    (effect,) = await ledger.ready(doubt.effect.lane, limit=9, due_before_ms=clock.now_ms() + 1)
    taken = await claim(ledger, effect)
    assert taken.attempt == 1 and taken.was_in_doubt


async def test_reading_begins_no_later_than_the_ledger_is(ledger: Ledger, records: Records) -> None:
    await records.write(ledger, *(order_only(str(number)) for number in range(4)))
    recovery = await ledger.recover({STREAM: 9}, {STREAM: 12})
    assert await ledger.positions([STREAM]) == {STREAM: 4}
    assert recovery.records_to_read == 8
    await ledger.recover({STREAM: 2}, {STREAM: 12})
    assert await ledger.positions([STREAM]) == {STREAM: 2}


async def test_the_horizon_covers_what_is_planned_in_doubt(
    ledger: Ledger, records: Records
) -> None:
    """Else the service would not start after recovering: the log was told of more."""
    assert await ledger.horizon([STREAM]) == {}
    await records.write(ledger, *(order_only(str(number)) for number in range(4)))
    assert await ledger.horizon([STREAM]) == {STREAM: 4}
    await ledger.recover({STREAM: 1}, {STREAM: 6})
    assert await ledger.positions([STREAM]) == {STREAM: 1}
    assert await ledger.horizon([STREAM]) == {STREAM: 6}
    again = [Records(next_offset=n).planned(order_only(str(n))) for n in range(1, 8)]
    await ledger.record_plans(again, [Advance(STREAM, 1, 8)])
    assert await ledger.horizon([STREAM]) == {STREAM: 8}


async def test_a_rejected_plan_stays_rejected(ledger: Ledger, records: Records) -> None:
    await ledger.recover({STREAM: 0}, {STREAM: 1})
    planned = Records().planned(plan_with("1", rejected_effect("1")))
    await ledger.record_plans([planned], [Advance(STREAM, 0, 1)])
    assert await state_of(ledger, order_key("1")) == "rejected"


async def test_what_was_in_doubt_waits_from_now_on(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    await in_doubt(ledger, records, order_only("1"))
    clock.advance(LEASE_S + ORDERS_VISIBLE_AFTER_S)
    end = records.next_offset
    await ledger.recover({STREAM: end}, {STREAM: end})
    doubt = await ledger.doubt(order_key("1"))
    assert doubt is not None
    assert doubt.absence_counts_from_ms == clock.now_ms() + ORDERS_VISIBLE_AFTER_S * 1000


async def test_a_duty_is_held_by_one_process_until_it_is_given_up(ledger_home: LedgerHome) -> None:
    async with ledger_home.open(CONFIG) as first:
        assert await first.hold_duty(Chore.PURGE, lease_s=5)
        assert await first.hold_duty(Chore.PURGE, lease_s=5)
        await first.release_duties()
    async with ledger_home.open(replace(CONFIG, owner="second")) as second:
        assert await second.hold_duty(Chore.PURGE, lease_s=5)
