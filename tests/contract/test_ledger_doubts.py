"""DoubtLedger: what may have taken effect is looked up, and absence counts only in time."""

from dataclasses import replace

import pytest

from service.domain.effects import Kind, Lane, Outcome, State
from service.domain.errors import WrongStateError
from service.domain.ledger import (
    Doubt,
    Ledger,
    LookUp,
    LookUpVerdict,
    Settlement,
    SettleResult,
)
from service.domain.planning import Plan
from tests.contract.ledger_fixture import (
    APPLIED,
    CONFIG,
    CREDITS_VISIBLE_AFTER_S,
    LEASE_S,
    ORDERS_VISIBLE_AFTER_S,
    LedgerHome,
    Records,
    claim,
    earn_key,
    earn_only,
    in_doubt,
    order_key,
    order_only,
    plan_one,
    plan_with,
    planned_and_claimed,
    planned_effect,
    ready_keys,
    state_of,
)
from tests.fakes.clock import FakeClock

KEY = order_key("7")


async def doubt_of(ledger: Ledger) -> Doubt:
    doubt = await ledger.doubt(KEY)
    assert doubt is not None
    return doubt


@pytest.mark.parametrize(
    ("plan", "visible_after_s"),
    [(order_only("7"), ORDERS_VISIBLE_AFTER_S), (earn_only("7"), CREDITS_VISIBLE_AFTER_S)],
    ids=["order", "earn"],
)
async def test_absence_counts_after_the_lease_and_the_time_to_show_it(
    ledger: Ledger, records: Records, clock: FakeClock, plan: Plan, visible_after_s: float
) -> None:
    clock.advance(3)
    taken = await in_doubt(ledger, records, plan)
    doubt = await ledger.doubt(taken.effect.key)
    assert doubt == Doubt(
        effect=taken.effect,
        attempt=1,
        absence_counts_from_ms=taken.lease_until_ms + round(visible_after_s * 1000),
        first_attempt_at_ms=taken.started_at_ms,
        resends=0,
    )


async def test_absence_counts_from_the_outcome_when_the_lease_ended_before(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    taken = await planned_and_claimed(ledger, records, order_only("7"))
    clock.advance(LEASE_S + 5)
    await ledger.settle(taken, Settlement(Outcome.IN_DOUBT))
    visible_at = clock.now_ms() + round(ORDERS_VISIBLE_AFTER_S * 1000)
    assert (await doubt_of(ledger)).absence_counts_from_ms == visible_at


async def test_the_first_look_up_is_due_at_once(ledger: Ledger, records: Records) -> None:
    await in_doubt(ledger, records, order_only("7"))
    assert await ledger.doubts(limit=9) == [await doubt_of(ledger)]


async def test_doubts_come_the_longest_due_first_within_the_limit(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    for plan in (earn_only("1"), order_only("2"), earn_only("3")):
        await in_doubt(ledger, records, plan)
        clock.advance(1)
    doubts = await ledger.doubts(limit=2)
    assert [doubt.effect.key for doubt in doubts] == [earn_key("1"), order_key("2")]


async def test_a_lease_that_ran_out_is_in_doubt_never_due(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    await planned_and_claimed(ledger, records, order_only("7"))
    other = await plan_one(ledger, records, order_only("8"))
    clock.advance(LEASE_S - 0.001)
    await claim(ledger, other)
    assert await ledger.expire_leases() == 0
    clock.advance(0.001)
    assert await ledger.expire_leases() == 1
    assert await ledger.expire_leases() == 0
    visible_at = clock.now_ms() + round(ORDERS_VISIBLE_AFTER_S * 1000)
    assert (await doubt_of(ledger)).absence_counts_from_ms == visible_at
    assert await state_of(ledger, order_key("8")) == "attempting"
    assert await ready_keys(ledger, Lane.SALES, before_ms=clock.now_ms() + 1) == []
    (attempt,) = (await ledger.show_effect(KEY))["attempts"]
    assert (attempt["outcome"], attempt["reason"]) == ("in_doubt", "lease_expired")


async def test_claims_of_a_process_that_ended_are_in_doubt_when_another_opens(
    ledger_home: LedgerHome, records: Records, clock: FakeClock
) -> None:
    """Its requests died with it, so absence counts from the opening on."""
    async with ledger_home.open(CONFIG) as ledger:
        await planned_and_claimed(ledger, records, order_only("7"))
        await records.write(ledger, order_only("8"))
    clock.advance(LEASE_S * 2)
    async with ledger_home.open(replace(CONFIG, owner="second")) as ledger:
        await ledger.expire_leases()
        visible_at = clock.now_ms() + round(ORDERS_VISIBLE_AFTER_S * 1000)
        doubt = await doubt_of(ledger)
        assert doubt.absence_counts_from_ms == visible_at
        assert await ledger.doubts(limit=9) == [doubt]
        assert await state_of(ledger, order_key("8")) == "due"


async def test_more_leases_than_one_bite_are_all_put_in_doubt(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    results = await records.write(ledger, *(order_only(str(n)) for n in range(600)))
    for result in results:
        await ledger.claim(result.fresh[0], lease_s=1)
    clock.advance(1)
    assert await ledger.expire_leases() == 600
    assert len(await ledger.doubts(limit=1_000)) == 600


async def test_found_is_applied_at_any_time(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    follower = replace(planned_effect("7", Kind.EARN), after=KEY)
    await in_doubt(ledger, records, plan_with("7", planned_effect("7"), follower))
    found = LookUp(LookUpVerdict.FOUND)
    assert await ledger.record_look_up(await doubt_of(ledger), found) is State.APPLIED
    shown = await ledger.show_effect(KEY)
    assert (shown["state"], shown["settled_at"]) == ("applied", clock.now_ms())
    assert (shown["attempts"][-1]["outcome"], shown["attempts"][-1]["attempt"]) == (
        "look_up_found",
        1,
    )
    assert await state_of(ledger, earn_key("7")) == "due"


async def test_different_is_rejected_with_a_dead_letter(ledger: Ledger, records: Records) -> None:
    follower = replace(planned_effect("7", Kind.EARN), after=KEY)
    await in_doubt(ledger, records, plan_with("7", planned_effect("7"), follower))
    look_up = LookUp(LookUpVerdict.DIFFERENT, reason="mismatch", detail="total_price")
    assert await ledger.record_look_up(await doubt_of(ledger), look_up) is State.REJECTED
    (item,) = (await ledger.list_dead_letters()).items
    assert (item["reason"], item["detail"], item["effect_key"]) == ("mismatch", "total_price", KEY)
    assert await state_of(ledger, earn_key("7")) == "void"


async def test_absent_is_due_now_with_the_same_request(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    first = await in_doubt(ledger, records, order_only("7"))
    for resends in (1, 2):
        doubt = await doubt_of(ledger)
        clock.advance(LEASE_S + ORDERS_VISIBLE_AFTER_S)
        absent = LookUp(LookUpVerdict.ABSENT)
        assert await ledger.record_look_up(doubt, absent) is State.DUE
        (effect,) = await ledger.ready(Lane.SALES, limit=9, due_before_ms=clock.now_ms() + 1)
        assert effect == first.effect
        taken = await claim(ledger, effect)
        assert (taken.attempt, taken.was_in_doubt) == (resends + 1, True)
        assert taken.first_attempt_at_ms == first.started_at_ms
        await ledger.settle(taken, Settlement(Outcome.IN_DOUBT))
        assert (await doubt_of(ledger)).resends == resends


async def test_that_an_effect_was_in_doubt_is_never_forgotten(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    await in_doubt(ledger, records, order_only("7"))
    clock.advance(LEASE_S + ORDERS_VISIBLE_AFTER_S)
    await ledger.record_look_up(await doubt_of(ledger), LookUp(LookUpVerdict.ABSENT))
    for _ in range(3):
        (effect,) = await ledger.ready(Lane.SALES, limit=9, due_before_ms=clock.now_ms() + 1)
        taken = await claim(ledger, effect)
        assert taken.was_in_doubt
        await ledger.settle(taken, Settlement(Outcome.RETRY, due_at_ms=clock.now_ms()))


@pytest.mark.parametrize("verdict", [LookUpVerdict.ABSENT, LookUpVerdict.HOLD])
async def test_absence_before_its_time_is_refused(
    ledger: Ledger, records: Records, clock: FakeClock, verdict: LookUpVerdict
) -> None:
    await in_doubt(ledger, records, order_only("7"))
    doubt = await doubt_of(ledger)
    clock.advance(LEASE_S + ORDERS_VISIBLE_AFTER_S - 0.001)
    with pytest.raises(WrongStateError, match="absence_too_early"):
        await ledger.record_look_up(doubt, LookUp(verdict))
    with pytest.raises(WrongStateError):  # what the ledger knows counts, not what it is told
        await ledger.record_look_up(replace(doubt, absence_counts_from_ms=0), LookUp(verdict))
    assert await doubt_of(ledger) == doubt
    clock.advance(0.001)
    assert await ledger.record_look_up(doubt, LookUp(verdict)) is not None


async def test_hold_waits_for_a_person(ledger: Ledger, records: Records, clock: FakeClock) -> None:
    follower = replace(planned_effect("7", Kind.EARN), after=KEY)
    await in_doubt(ledger, records, plan_with("7", planned_effect("7"), follower))
    clock.advance(LEASE_S + ORDERS_VISIBLE_AFTER_S)
    look_up = LookUp(LookUpVerdict.HOLD, reason="absent_after_resends")
    assert await ledger.record_look_up(await doubt_of(ledger), look_up) is State.HELD
    shown = await ledger.show_effect(KEY)
    assert (shown["state"], shown["reason"]) == ("held", "absent_after_resends")
    assert await state_of(ledger, earn_key("7")) == "blocked"


async def test_unknown_is_asked_again_at_its_time(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    await in_doubt(ledger, records, order_only("7"))
    again_at_ms = clock.now_ms() + 5_000
    look_up = LookUp(LookUpVerdict.UNKNOWN, reason="not_connected", again_at_ms=again_at_ms)
    assert await ledger.record_look_up(await doubt_of(ledger), look_up) is State.IN_DOUBT
    clock.advance(4.999)
    assert await ledger.doubts(limit=9) == []
    assert await ledger.doubt(KEY) is not None
    clock.advance(0.001)
    assert await ledger.doubts(limit=9) == [await doubt_of(ledger)]


async def test_unknown_without_a_time_is_asked_again_when_absence_counts(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    await in_doubt(ledger, records, order_only("7"))
    doubt = await doubt_of(ledger)
    await ledger.record_look_up(doubt, LookUp(LookUpVerdict.UNKNOWN))
    assert (await ledger.show_effect(KEY))["due_at"] == doubt.absence_counts_from_ms


@pytest.mark.parametrize("verdict", list(LookUpVerdict))
async def test_a_look_up_of_what_moved_meanwhile_writes_nothing(
    ledger: Ledger, records: Records, clock: FakeClock, verdict: LookUpVerdict
) -> None:
    taken = await in_doubt(ledger, records, order_only("7"))
    doubt = await doubt_of(ledger)
    clock.advance(LEASE_S + ORDERS_VISIBLE_AFTER_S)
    look_up = LookUp(verdict, again_at_ms=1)
    assert await ledger.record_look_up(replace(doubt, attempt=2), look_up) is None
    other = replace(doubt, effect=replace(doubt.effect, key=order_key("8")))
    assert await ledger.record_look_up(other, look_up) is None
    await ledger.settle(taken, APPLIED)
    assert await ledger.record_look_up(doubt, look_up) is None
    assert await state_of(ledger, KEY) == "applied"


async def test_only_what_is_in_doubt_has_a_doubt(ledger: Ledger, records: Records) -> None:
    await records.write(ledger, order_only("7"))
    assert await ledger.doubt(KEY) is None
    assert await ledger.doubt(order_key("unknown")) is None


async def applied_earns(ledger: Ledger, records: Records, *order_ids: str) -> None:
    for order_id in order_ids:
        taken = await planned_and_claimed(ledger, records, earn_only(order_id))
        await ledger.settle(taken, APPLIED)


async def test_credits_are_marked_seen_once(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    await applied_earns(ledger, records, "1", "2")
    oldest = clock.now_ms()
    clock.advance(5)
    await applied_earns(ledger, records, "3")
    tally = await ledger.tally()
    assert (tally.unseen_credits, tally.oldest_unseen_ms) == (3, oldest)
    keys = [earn_key("1"), earn_key("2"), order_key("1"), "somebody else's context"]
    assert await ledger.mark_seen(keys, "page-1") == 2
    assert await ledger.mark_seen(keys, "page-1") == 0
    tally = await ledger.tally()
    assert (tally.unseen_credits, tally.oldest_unseen_ms) == (1, clock.now_ms())
    await ledger.mark_seen([earn_key("3")], None)
    tally = await ledger.tally()
    assert (tally.unseen_credits, tally.oldest_unseen_ms) == (0, None)


async def test_a_credit_seen_before_its_outcome_is_recorded_counts(
    ledger: Ledger, records: Records
) -> None:
    """The reader may be faster than the dispatcher, and does not come by again."""
    taken = await planned_and_claimed(ledger, records, earn_only("7"))
    assert await ledger.mark_seen([earn_key("7")], "page-1") == 1
    assert await state_of(ledger, earn_key("7")) == "attempting"
    await ledger.settle(taken, APPLIED)
    assert (await ledger.tally()).unseen_credits == 0


async def test_a_credit_that_a_look_up_found_was_seen(ledger: Ledger, records: Records) -> None:
    await in_doubt(ledger, records, earn_only("7"))
    doubt = await ledger.doubt(earn_key("7"))
    assert doubt is not None
    await ledger.record_look_up(doubt, LookUp(LookUpVerdict.FOUND))
    assert (await ledger.tally()).unseen_credits == 0


async def test_the_cursor_of_the_credits_is_kept(ledger_home: LedgerHome) -> None:
    async with ledger_home.open(CONFIG) as ledger:
        assert await ledger.credits_cursor() is None
        await ledger.mark_seen([], "page-1")
        await ledger.mark_seen([], "page-2")
        await ledger.mark_seen([], None)
    async with ledger_home.open(CONFIG) as ledger:
        assert await ledger.credits_cursor() == "page-2"


@pytest.mark.parametrize("verdict", [LookUpVerdict.ABSENT, LookUpVerdict.HOLD])
async def test_a_credit_that_shows_after_its_absence_is_looked_up_before_it_is_sent(
    ledger: Ledger, records: Records, clock: FakeClock, verdict: LookUpVerdict
) -> None:
    """P4: Splio was slower than we waited; the resend would book twice."""
    key = earn_key("7")
    taken = await in_doubt(ledger, records, earn_only("7"))
    clock.advance(7_200)
    (doubt,) = await ledger.doubts(limit=9)
    await ledger.record_look_up(doubt, LookUp(verdict))
    await ledger.mark_seen([key], "page-1")
    assert await ledger.claim(taken.effect, lease_s=LEASE_S) is None
    with pytest.raises(WrongStateError, match="not_held"):
        await ledger.release(key, by="anna")
    (doubt,) = await ledger.doubts(limit=9)
    assert await ledger.record_look_up(doubt, LookUp(LookUpVerdict.FOUND)) is State.APPLIED


async def test_a_credit_that_shows_before_it_was_ever_sent_is_looked_up(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    """The ledger was rebuilt and knows nothing of what it had booked."""
    effect = await plan_one(ledger, records, earn_only("7"))
    await ledger.mark_seen([effect.key], "page-1")
    assert await ledger.claim(effect, lease_s=LEASE_S) is None
    (doubt,) = await ledger.doubts(limit=9)
    assert doubt.first_attempt_at_ms == clock.now_ms()
    assert await ledger.record_look_up(doubt, LookUp(LookUpVerdict.FOUND)) is State.APPLIED


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.REJECTED])
async def test_a_credit_that_shows_during_a_resend_is_not_sent_once_more(
    ledger: Ledger, records: Records, clock: FakeClock, outcome: Outcome
) -> None:
    """P2: the first attempt had booked it, so what the second one ended in says nothing."""
    key = earn_key("7")
    first = await in_doubt(ledger, records, earn_only("7"))
    clock.advance(7_200)
    (doubt,) = await ledger.doubts(limit=9)
    await ledger.record_look_up(doubt, LookUp(LookUpVerdict.ABSENT))
    second = await claim(ledger, first.effect)
    await ledger.mark_seen([key], "page-1")
    ended = Settlement(outcome, reason="rate_limited", due_at_ms=clock.now_ms())
    assert await ledger.settle(second, ended) is SettleResult.SETTLED
    assert await state_of(ledger, key) == "in_doubt"
    assert (await ledger.list_dead_letters()).items == []
    assert await ledger.claim(first.effect, lease_s=LEASE_S) is None
    (doubt,) = await ledger.doubts(limit=9)
    assert await ledger.record_look_up(doubt, LookUp(LookUpVerdict.FOUND)) is State.APPLIED


@pytest.mark.parametrize("verdict", [LookUpVerdict.ABSENT, LookUpVerdict.HOLD])
async def test_a_credit_that_shows_during_its_look_up_is_asked_for_again(
    ledger: Ledger, records: Records, clock: FakeClock, verdict: LookUpVerdict
) -> None:
    """P2: it was absent when Splio was asked, and is there when the answer is recorded."""
    taken = await in_doubt(ledger, records, earn_only("7"))
    clock.advance(7_200)
    (doubt,) = await ledger.doubts(limit=9)
    await ledger.mark_seen([earn_key("7")], "page-1")
    assert await ledger.record_look_up(doubt, LookUp(verdict)) is State.IN_DOUBT
    assert await ledger.claim(taken.effect, lease_s=LEASE_S) is None
    assert await ledger.doubts(limit=9) == []
    clock.advance(CREDITS_VISIBLE_AFTER_S)
    (doubt,) = await ledger.doubts(limit=9)
    assert await ledger.record_look_up(doubt, LookUp(LookUpVerdict.FOUND)) is State.APPLIED
