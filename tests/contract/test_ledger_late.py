"""Outcomes whose attempt had lost its claim: late successes settle, two of them are told."""

import pytest

from service.domain.effects import Outcome
from service.domain.ledger import Claim, Ledger, LookUp, LookUpVerdict, Settlement, SettleResult
from tests.contract.ledger_fixture import (
    APPLIED,
    LEASE_S,
    ORDERS_VISIBLE_AFTER_S,
    Records,
    claim,
    in_doubt,
    order_key,
    order_only,
    planned_and_claimed,
    state_of,
)
from tests.fakes.clock import FakeClock

KEY = order_key("7")
DUPLICATE = Settlement(Outcome.DUPLICATE)


async def lost(ledger: Ledger, records: Records, clock: FakeClock) -> Claim:
    """A claim whose lease ran out; its effect is in doubt."""
    taken = await planned_and_claimed(ledger, records, order_only("7"))
    clock.advance(LEASE_S)
    assert await ledger.expire_leases() == 1
    return taken


async def look_up(ledger: Ledger, verdict: LookUpVerdict) -> None:
    doubt = await ledger.doubt(KEY)
    assert doubt is not None
    assert await ledger.record_look_up(doubt, LookUp(verdict)) is not None


async def sent_again(ledger: Ledger, records: Records, clock: FakeClock) -> tuple[Claim, Claim]:
    """Two claims of one effect; the first was lost, the second is held."""
    first = await lost(ledger, records, clock)
    clock.advance(ORDERS_VISIBLE_AFTER_S)
    await look_up(ledger, LookUpVerdict.ABSENT)
    return first, await claim(ledger, first.effect)


async def results_of(ledger: Ledger) -> list[tuple[int, str, str]]:
    attempts = (await ledger.show_effect(KEY))["attempts"]
    return [(row["attempt"], row["outcome"], row["result"]) for row in attempts]


@pytest.mark.parametrize("outcome", [Outcome.APPLIED, Outcome.DUPLICATE])
async def test_a_late_success_settles_an_effect_in_doubt(
    ledger: Ledger, records: Records, clock: FakeClock, outcome: Outcome
) -> None:
    taken = await lost(ledger, records, clock)
    assert await ledger.settle(taken, Settlement(outcome)) is SettleResult.LATE
    assert await state_of(ledger, KEY) == outcome
    assert (await results_of(ledger))[-1] == (1, outcome, "late")
    assert await ledger.doubt(KEY) is None


@pytest.mark.parametrize("outcome", [Outcome.REJECTED, Outcome.IN_DOUBT, Outcome.RETRY])
async def test_another_late_outcome_is_only_noted(
    ledger: Ledger, records: Records, clock: FakeClock, outcome: Outcome
) -> None:
    taken = await lost(ledger, records, clock)
    assert await ledger.settle(taken, Settlement(outcome, due_at_ms=1)) is SettleResult.STALE
    assert await state_of(ledger, KEY) == "in_doubt"
    assert (await results_of(ledger))[-1] == (1, outcome, "stale")
    assert (await ledger.list_dead_letters()).items == []


async def test_a_late_success_settles_an_effect_that_is_due_again(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    taken = await lost(ledger, records, clock)
    clock.advance(ORDERS_VISIBLE_AFTER_S)
    await look_up(ledger, LookUpVerdict.ABSENT)
    assert await ledger.settle(taken, APPLIED) is SettleResult.LATE
    assert await ledger.claim(taken.effect, lease_s=LEASE_S) is None


async def test_a_late_success_settles_what_was_held_for_a_person(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    taken = await lost(ledger, records, clock)
    clock.advance(ORDERS_VISIBLE_AFTER_S)
    await look_up(ledger, LookUpVerdict.HOLD)
    assert await ledger.settle(taken, APPLIED) is SettleResult.LATE
    assert await state_of(ledger, KEY) == "applied"


async def test_a_late_success_settles_what_a_person_rejected(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    """Else a replay of its dead letter would apply it twice."""
    taken = await lost(ledger, records, clock)
    await ledger.reject(KEY, by="anna")
    assert await ledger.settle(taken, APPLIED) is SettleResult.LATE
    assert await state_of(ledger, KEY) == "applied"


async def test_a_late_success_settles_while_a_later_attempt_is_under_way(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    first, second = await sent_again(ledger, records, clock)
    assert await ledger.settle(first, APPLIED) is SettleResult.LATE
    assert await state_of(ledger, KEY) == "applied"
    assert await ledger.settle(second, DUPLICATE) is SettleResult.STALE
    assert await state_of(ledger, KEY) == "applied"


@pytest.mark.parametrize("first_is_first", [True, False])
async def test_two_successes_are_a_suspected_double(
    ledger: Ledger, records: Records, clock: FakeClock, first_is_first: bool
) -> None:
    one, other = await sent_again(ledger, records, clock)
    if not first_is_first:
        one, other = other, one
    await ledger.settle(one, APPLIED)
    assert await ledger.settle(other, APPLIED) is SettleResult.SUSPECTED_DOUBLE
    assert await state_of(ledger, KEY) == "applied"
    assert (await results_of(ledger))[-1] == (other.attempt, "applied", "suspected_double")


async def test_an_outcome_written_twice_is_no_double(ledger: Ledger, records: Records) -> None:
    """A commit that was reported as failed may be there all the same; it is written again."""
    taken = await planned_and_claimed(ledger, records, order_only("7"))
    assert await ledger.settle(taken, APPLIED) is SettleResult.SETTLED
    assert await ledger.settle(taken, APPLIED) is SettleResult.SETTLED
    assert await results_of(ledger) == [(1, "applied", "settled")]


async def test_a_late_success_that_a_look_up_found_is_no_double(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    taken = await lost(ledger, records, clock)
    await look_up(ledger, LookUpVerdict.FOUND)
    assert await ledger.settle(taken, APPLIED) is SettleResult.STALE
    assert await state_of(ledger, KEY) == "applied"


async def test_two_late_successes_behind_a_look_up_that_found_one_are_a_double(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    first, second = await sent_again(ledger, records, clock)
    await ledger.settle(second, Settlement(Outcome.IN_DOUBT))
    await look_up(ledger, LookUpVerdict.FOUND)
    assert await ledger.settle(first, APPLIED) is SettleResult.STALE
    assert await ledger.settle(second, APPLIED) is SettleResult.SUSPECTED_DOUBLE


async def test_the_success_that_a_later_attempt_met_as_duplicate_is_no_double(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    first, second = await sent_again(ledger, records, clock)
    assert await ledger.settle(second, DUPLICATE) is SettleResult.SETTLED
    assert await ledger.settle(first, APPLIED) is SettleResult.STALE
    assert await state_of(ledger, KEY) == "duplicate"


@pytest.mark.parametrize("outcome", [Outcome.REJECTED, Outcome.IN_DOUBT, Outcome.RETRY])
async def test_an_older_attempt_does_not_disturb_the_one_under_way(
    ledger: Ledger, records: Records, clock: FakeClock, outcome: Outcome
) -> None:
    first, second = await sent_again(ledger, records, clock)
    assert await ledger.settle(first, Settlement(outcome, due_at_ms=1)) is SettleResult.STALE
    assert await ledger.settle(second, APPLIED) is SettleResult.SETTLED


async def test_a_late_failure_does_not_undo_a_success(ledger: Ledger, records: Records) -> None:
    taken = await planned_and_claimed(ledger, records, order_only("7"))
    await ledger.settle(taken, APPLIED)
    for outcome in (Outcome.REJECTED, Outcome.IN_DOUBT, Outcome.RETRY, Outcome.DUPLICATE):
        settlement = Settlement(outcome, due_at_ms=1)
        assert await ledger.settle(taken, settlement) is SettleResult.STALE
    assert await state_of(ledger, KEY) == "applied"


async def test_an_outcome_in_doubt_may_still_turn_out_a_success(
    ledger: Ledger, records: Records
) -> None:
    taken = await in_doubt(ledger, records, order_only("7"))
    assert await ledger.settle(taken, APPLIED) is SettleResult.LATE
