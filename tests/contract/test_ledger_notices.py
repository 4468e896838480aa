"""The outbox: downstream services are told of what was settled and set aside, each once."""

from dataclasses import replace

import pytest

from service.domain.effects import Kind, Outcome, State
from service.domain.ledger import Ledger, LookUp, LookUpVerdict, Settlement
from service.domain.notices import DeadLetterNotice, Notice, OutcomeNotice
from service.domain.planning import Reason
from tests.contract.ledger_fixture import (
    APPLIED,
    CONFIG,
    LedgerHome,
    Records,
    claim,
    dead_letter_plan,
    earn_key,
    earn_only,
    held_effect,
    in_doubt,
    order_and_earn,
    order_key,
    order_only,
    plan_one,
    plan_with,
    planned_and_claimed,
    planned_effect,
    rejected_effect,
)

TELLS = replace(CONFIG, publishes_notices=True)


async def told(ledger: Ledger) -> list[Notice]:
    """All that waits in the outbox, in order."""
    return [entry.notice for entry in await ledger.outbox(limit=1_000)]


def outcomes(notices: list[Notice]) -> list[tuple[str, str]]:
    return [
        (each.effect_key, each.outcome.value) for each in notices if isinstance(each, OutcomeNotice)
    ]


async def test_an_applied_effect_is_told_with_its_reference(
    ledger_home: LedgerHome, records: Records
) -> None:
    async with ledger_home.open(TELLS) as ledger:
        (result,) = await records.write(ledger, order_and_earn("7"))
        assert await told(ledger) == []
        for effect in result.fresh:
            await ledger.settle(await claim(ledger, effect), APPLIED)
        by_kind = {
            each.kind: each for each in await told(ledger) if isinstance(each, OutcomeNotice)
        }
    order, earn = by_kind[Kind.ORDER], by_kind[Kind.EARN]
    assert (order.effect_key, order.order_id, order.outcome) == (order_key("7"), "7", "applied")
    assert (order.points, order.attempt, order.reference) == (0, 1, "7")
    assert (earn.points, earn.reference) == (12, result.fresh[1].request.idempotency_key)
    assert order.event_id == "event-0"
    assert order.settled_at_ms == ledger_home.clock.now_ms()


async def test_what_is_not_settled_is_not_told(ledger_home: LedgerHome, records: Records) -> None:
    async with ledger_home.open(TELLS) as ledger:
        taken = await planned_and_claimed(ledger, records, order_only("1"))
        retry = Settlement(Outcome.RETRY, due_at_ms=ledger_home.clock.now_ms())
        await ledger.settle(taken, retry)
        await in_doubt(ledger, records, order_only("2"))
        await records.write(ledger, plan_with("3", held_effect("3")))
        await records.write(ledger, order_only("1"))
        assert await told(ledger) == []


async def test_rejections_and_dead_letters_are_told(
    ledger_home: LedgerHome, records: Records
) -> None:
    async with ledger_home.open(TELLS) as ledger:
        taken = await planned_and_claimed(ledger, records, order_only("1"))
        await ledger.settle(taken, Settlement(Outcome.REJECTED, reason="refused", detail="why"))
        await records.write(ledger, plan_with("2", rejected_effect("2")))
        await records.write(ledger, dead_letter_plan("3"), dead_letter_plan("3"))
        notices = await told(ledger)
    assert outcomes(notices) == [(order_key("1"), "rejected"), (order_key("2"), "rejected")]
    letters = [each for each in notices if isinstance(each, DeadLetterNotice)]
    assert [(each.kind, each.reason, each.order_id) for each in letters] == [
        ("order", "refused", "1"),
        ("order", Reason.CONTACT_KEY_MISSING, "2"),
        ("event", Reason.SHOP_MISSING, "3"),
    ]
    assert (letters[2].topic, letters[2].partition, letters[2].offset) == ("scayle.orders.v1", 0, 2)
    assert letters[0].effect_key == order_key("1") and letters[2].effect_key is None


async def test_followers_that_are_voided_are_told(
    ledger_home: LedgerHome, records: Records
) -> None:
    """P5"""
    follower = replace(planned_effect("1", Kind.EARN), after=order_key("1"))
    async with ledger_home.open(TELLS) as ledger:
        taken_from = plan_with("1", planned_effect("1"), follower)
        taken = await planned_and_claimed(ledger, records, taken_from)
        await ledger.settle(taken, Settlement(Outcome.REJECTED, reason="refused"))
        found = outcomes(await told(ledger))
    assert sorted(found) == [(earn_key("1"), "void"), (order_key("1"), "rejected")]


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [(LookUpVerdict.FOUND, State.APPLIED), (LookUpVerdict.DIFFERENT, State.REJECTED)],
)
async def test_what_a_look_up_settles_is_told(
    ledger_home: LedgerHome, records: Records, verdict: LookUpVerdict, outcome: State
) -> None:
    async with ledger_home.open(TELLS) as ledger:
        await in_doubt(ledger, records, order_only("1"))
        doubt = await ledger.doubt(order_key("1"))
        assert doubt is not None
        await ledger.record_look_up(doubt, LookUp(verdict))
        assert outcomes(await told(ledger)) == [(order_key("1"), outcome.value)]


async def test_what_an_operator_rejects_is_told(ledger_home: LedgerHome, records: Records) -> None:
    async with ledger_home.open(TELLS) as ledger:
        await in_doubt(ledger, records, earn_only("1"))
        await ledger.reject(earn_key("1"), by="anna")
        assert outcomes(await told(ledger)) == [(earn_key("1"), "rejected")]


async def test_a_late_success_is_told_and_the_same_outcome_twice_is_not(
    ledger_home: LedgerHome, records: Records
) -> None:
    async with ledger_home.open(TELLS) as ledger:
        late = await planned_and_claimed(ledger, records, order_only("1"))
        ledger_home.clock.advance(3_600)
        await ledger.expire_leases()
        await ledger.settle(late, APPLIED)
        await ledger.settle(late, APPLIED)
        assert outcomes(await told(ledger)) == [(order_key("1"), "applied")]


async def test_published_notices_are_forgotten_and_the_others_stay_in_order(
    ledger_home: LedgerHome, records: Records
) -> None:
    async with ledger_home.open(TELLS) as ledger:
        for number in range(5):
            taken = await planned_and_claimed(ledger, records, order_only(str(number)))
            await ledger.settle(taken, APPLIED)
        entries = await ledger.outbox(limit=3)
        assert [entry.notice.order_id for entry in entries] == ["0", "1", "2"]
        await ledger.remove_published([entries[0].id, entries[2].id])
        left = await ledger.outbox(limit=9)
        assert [entry.notice.order_id for entry in left] == ["1", "3", "4"]
        tally = await ledger.tally()
        assert tally.outbox == 3
        assert tally.oldest_outbox_ms == ledger_home.clock.now_ms()


async def test_nothing_is_told_where_nobody_can_read_it(ledger: Ledger, records: Records) -> None:
    taken = await planned_and_claimed(ledger, records, order_only("1"))
    await ledger.settle(taken, APPLIED)
    await records.write(ledger, dead_letter_plan("3"))
    assert await told(ledger) == []


async def test_an_effect_that_was_replayed_is_told_again(
    ledger_home: LedgerHome, records: Records
) -> None:
    """Readers tell repeats by key and outcome: rejected first, applied later."""
    async with ledger_home.open(TELLS) as ledger:
        effect = await plan_one(ledger, records, order_only("1"))
        await ledger.settle(
            await claim(ledger, effect), Settlement(Outcome.REJECTED, reason="refused")
        )
        (item,) = (await ledger.list_dead_letters()).items
        result = await ledger.replay(item["id"], records.planned(order_only("1")), by="anna")
        await ledger.settle(await claim(ledger, result.fresh[0]), APPLIED)
        assert outcomes(await told(ledger)) == [
            (order_key("1"), "rejected"),
            (order_key("1"), "applied"),
        ]
