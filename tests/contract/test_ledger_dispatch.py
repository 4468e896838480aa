"""DispatchLedger: a claim is exclusive and committed, and every outcome moves its effect."""

import asyncio
from dataclasses import replace

import pytest

from service.domain.effects import Kind, Lane, Outcome, State
from service.domain.errors import NotFoundError, PermanentError
from service.domain.ledger import (
    Disposition,
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
    LEASE_S,
    LedgerHome,
    Records,
    claim,
    earn_key,
    earn_only,
    held_effect,
    order_and_earn,
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


async def test_ready_gives_the_longest_due_first_within_the_limit(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    for number in range(4):
        await records.write(ledger, order_and_earn(str(number)))
        clock.advance(1)
    before = clock.now_ms() - 1_000  # when the last was planned
    effects = await ledger.ready(Lane.SALES, limit=9, due_before_ms=before)
    assert [effect.key for effect in effects] == [order_key(n) for n in "012"]
    effects = await ledger.ready(Lane.OTHER, limit=2, due_before_ms=before)
    assert [effect.key for effect in effects] == [earn_key("0"), earn_key("1")]
    assert await ledger.ready(Lane.CONTACTS, limit=9, due_before_ms=before) == []


async def test_ready_leaves_out_what_the_caller_has(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    """The limit counts what is handed out, so a full memory never hides what lies behind it."""
    for number in range(5):
        await records.write(ledger, order_and_earn(str(number)))
        clock.advance(1)
    had = frozenset({order_key("0"), order_key("1"), order_key("3"), order_key("unknown")})
    effects = await ledger.ready(
        Lane.SALES, limit=1, due_before_ms=clock.now_ms() + 1, excluding=had
    )
    assert [effect.key for effect in effects] == [order_key("2")]
    effects = await ledger.ready(
        Lane.SALES, limit=9, due_before_ms=clock.now_ms() + 1, excluding=had
    )
    assert [effect.key for effect in effects] == [order_key("2"), order_key("4")]


async def test_a_claim_tells_all_that_an_attempt_needs(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    effect = await plan_one(ledger, records, order_only("7"))
    clock.advance(5)
    taken = await ledger.claim(effect, lease_s=12.5)
    assert taken is not None
    assert taken.effect == effect
    assert (taken.attempt, taken.rounds, taken.was_in_doubt) == (1, 0, False)
    assert taken.started_at_ms == taken.first_attempt_at_ms == clock.now_ms()
    assert taken.lease_until_ms == clock.now_ms() + 12_500


async def test_a_claim_is_exclusive(ledger: Ledger, records: Records) -> None:
    effect = await plan_one(ledger, records, order_only("7"))
    claims = await asyncio.gather(*(ledger.claim(effect, lease_s=LEASE_S) for _ in range(20)))
    assert sum(taken is not None for taken in claims) == 1
    assert await ledger.claim(effect, lease_s=LEASE_S) is None


async def test_many_claims_at_once_are_each_given(ledger: Ledger, records: Records) -> None:
    results = await records.write(ledger, *(order_and_earn(str(n)) for n in range(100)))
    effects = [effect for result in results for effect in result.fresh]
    claims = await asyncio.gather(
        *(ledger.claim(effect, lease_s=n % 3 + 1) for n, effect in enumerate(effects))
    )
    assert [taken and taken.effect for taken in claims] == effects
    leases = {taken.lease_until_ms - taken.started_at_ms for taken in claims if taken}
    assert leases == {1_000, 2_000, 3_000}


async def test_a_claim_is_committed_when_it_is_given(
    ledger_home: LedgerHome, records: Records
) -> None:
    """Another process finds it, in doubt."""
    async with ledger_home.open(CONFIG) as ledger:
        await planned_and_claimed(ledger, records, order_only("7"))
    ledger_home.clock.advance(LEASE_S)
    async with ledger_home.open(replace(CONFIG, owner="second")) as ledger:
        await ledger.expire_leases()
        assert await state_of(ledger, order_key("7")) == "in_doubt"


async def test_every_claim_raises_the_attempt(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    """Also one that ended in a retry; the first attempt's time stays."""
    taken = await planned_and_claimed(ledger, records, order_only("7"))
    first = taken.started_at_ms
    for attempt in (2, 3):
        clock.advance(1)
        await ledger.settle(taken, Settlement(Outcome.RETRY, due_at_ms=clock.now_ms()))
        taken = await claim(ledger, taken.effect)
        assert (taken.attempt, taken.first_attempt_at_ms) == (attempt, first)
        assert taken.started_at_ms == clock.now_ms()


async def test_no_claim_before_the_effect_is_due(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    taken = await planned_and_claimed(ledger, records, order_only("7"))
    due_at_ms = clock.now_ms() + 1_000
    await ledger.settle(taken, Settlement(Outcome.RETRY, "rate_limited", due_at_ms=due_at_ms))
    clock.advance(0.999)
    assert await ledger.claim(taken.effect, lease_s=LEASE_S) is None
    clock.advance(0.001)
    assert (await claim(ledger, taken.effect)).attempt == 2


@pytest.mark.parametrize("outcome", list(Outcome))
async def test_no_claim_after_any_outcome_but_retry(
    ledger: Ledger, records: Records, clock: FakeClock, outcome: Outcome
) -> None:
    taken = await planned_and_claimed(ledger, records, order_only("7"))
    assert (
        await ledger.settle(taken, Settlement(outcome, due_at_ms=clock.now_ms()))
        is SettleResult.SETTLED
    )
    again = await ledger.claim(taken.effect, lease_s=LEASE_S)
    assert (again is not None) == (outcome is Outcome.RETRY)


@pytest.mark.parametrize(
    "plan",
    [
        plan_with("7", held_effect("7")),
        plan_with("7", replace(planned_effect("7", Kind.EARN), after=order_key("7"))),
    ],
    ids=["held", "blocked"],
)
async def test_no_claim_of_what_waits(
    ledger: Ledger, records: Records, clock: FakeClock, plan: Plan
) -> None:
    example = await plan_one(ledger, records, earn_only("6"))
    await records.write(ledger, plan)
    for request_id in range(example.request_id, example.request_id + 10):
        effect = replace(example, key=earn_key("7"), request_id=request_id)
        assert await ledger.claim(effect, lease_s=LEASE_S) is None
    assert await ready_keys(ledger, Lane.OTHER, before_ms=clock.now_ms() + 1) == [earn_key("6")]


async def test_no_claim_with_another_stored_request(ledger: Ledger, records: Records) -> None:
    effect = await plan_one(ledger, records, order_only("7"))
    outdated = replace(effect, request_id=effect.request_id - 1)
    refused, taken = await asyncio.gather(
        ledger.claim(outdated, lease_s=LEASE_S), ledger.claim(effect, lease_s=LEASE_S)
    )
    assert refused is None
    assert taken is not None


async def test_no_claim_of_an_unknown_effect(ledger: Ledger, records: Records) -> None:
    effect = await plan_one(ledger, records, order_only("7"))
    assert await ledger.claim(replace(effect, key=order_key("8")), lease_s=LEASE_S) is None


@pytest.mark.parametrize(
    ("settlement", "state"),
    [
        (Settlement(Outcome.APPLIED), "applied"),
        (Settlement(Outcome.DUPLICATE), "duplicate"),
        (Settlement(Outcome.REJECTED, reason="refused"), "rejected"),
        (Settlement(Outcome.IN_DOUBT, reason="timeout"), "in_doubt"),
        (Settlement(Outcome.RETRY, reason="rate_limited", due_at_ms=1), "due"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
async def test_an_outcome_moves_the_effect(
    ledger: Ledger, records: Records, clock: FakeClock, settlement: Settlement, state: str
) -> None:
    taken = await planned_and_claimed(ledger, records, order_only("7"))
    clock.advance(0.25)
    assert await ledger.settle(taken, settlement) is SettleResult.SETTLED
    shown = await ledger.show_effect(order_key("7"))
    assert shown["state"] == state
    assert (shown["lease_owner"], shown["lease_until"]) == (None, None)
    assert shown["reason"] == settlement.reason
    is_settled = State(state) in {State.APPLIED, State.DUPLICATE, State.REJECTED}
    assert shown["settled_at"] == (clock.now_ms() if is_settled else None)


async def test_an_outcome_is_noted_in_the_audit_trail(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    taken = await planned_and_claimed(ledger, records, order_only("7"))
    started_at = clock.now_ms()
    clock.advance(0.25)
    await ledger.settle(
        taken, Settlement(Outcome.RETRY, "rate_limited", 429, "slow down", due_at_ms=1)
    )
    taken = await claim(ledger, taken.effect)
    await ledger.settle(taken, APPLIED)
    first, second = (await ledger.show_effect(order_key("7")))["attempts"]
    assert first == {
        "attempt": 1,
        "started_at": started_at,
        "ended_at": started_at + 250,
        "outcome": "retry",
        "result": "settled",
        "reason": "rate_limited",
        "status": 429,
        "detail": "slow down",
        "by": None,
    }
    assert (second["attempt"], second["outcome"], second["status"]) == (2, "applied", 201)


async def test_rounds_that_ended_are_counted(ledger: Ledger, records: Records) -> None:
    taken = await planned_and_claimed(ledger, records, order_only("7"))
    for has_ended, rounds in ((True, 1), (False, 1), (True, 2)):
        settlement = Settlement(Outcome.RETRY, "missing", due_at_ms=1, is_round=True)
        await ledger.settle(taken, settlement)
        if has_ended:
            assert await ledger.make_due(taken.effect.key, taken.attempt)
        taken = await claim(ledger, taken.effect)
        assert taken.rounds == rounds


async def test_a_retry_without_a_time_is_refused(ledger: Ledger, records: Records) -> None:
    taken = await planned_and_claimed(ledger, records, order_only("7"))
    with pytest.raises(ValueError, match="due_at_ms"):
        await ledger.settle(taken, Settlement(Outcome.RETRY))
    assert await state_of(ledger, order_key("7")) == "attempting"


async def test_a_rejected_effect_is_a_dead_letter_with_its_record(
    ledger: Ledger, records: Records
) -> None:
    planned = records.planned(order_only("7"), value=b"\x00the original\xff")
    (result,) = await ledger.record_plans([planned], [])
    taken = await claim(ledger, result.fresh[0])
    settlement = Settlement(Outcome.REJECTED, reason="refused", status=400, detail="why")
    await ledger.settle(taken, settlement)
    (item,) = (await ledger.list_dead_letters(only_open=True)).items
    letter = await ledger.dead_letter(item["id"])
    assert (letter.kind, letter.effect_key, letter.order_id) == ("order", order_key("7"), "7")
    assert (letter.reason, letter.detail) == ("refused", "why")
    assert (letter.event_id, letter.event_type) == ("event-0", "order-confirmed")
    assert letter.record == b"\x00the original\xff"
    assert (letter.topic, letter.partition, letter.offset) == ("scayle.orders.v1", 0, 0)
    assert letter.headers == {"event_type": "order-confirmed"}


def chain() -> Plan:
    """An order and what waits for it, and what waits for that."""
    return plan_with(
        "7",
        planned_effect("7"),
        replace(planned_effect("7", Kind.EARN), after=order_key("7")),
        replace(planned_effect("7:2", Kind.EARN), order_key="7", after=earn_key("7")),
        replace(planned_effect("7:3", Kind.EARN), order_key="7", after=earn_key("7:2")),
    )


async def states_of_chain(ledger: Ledger) -> list[str]:
    return [await state_of(ledger, earn_key(suffix)) for suffix in ("7", "7:2", "7:3")]


@pytest.mark.parametrize("outcome", [Outcome.APPLIED, Outcome.DUPLICATE])
async def test_success_releases_the_followers(
    ledger: Ledger, records: Records, clock: FakeClock, outcome: Outcome
) -> None:
    taken = await planned_and_claimed(ledger, records, chain())
    clock.advance(9)
    await ledger.settle(taken, Settlement(outcome))
    assert await states_of_chain(ledger) == ["due", "blocked", "blocked"]
    assert (await ledger.show_effect(earn_key("7")))["due_at"] == clock.now_ms()


async def test_rejection_voids_the_followers_and_theirs(ledger: Ledger, records: Records) -> None:
    taken = await planned_and_claimed(ledger, records, chain())
    await ledger.settle(taken, Settlement(Outcome.REJECTED, reason="refused"))
    assert await states_of_chain(ledger) == ["void"] * 3
    assert len((await ledger.list_dead_letters()).items) == 1


@pytest.mark.parametrize("outcome", [Outcome.IN_DOUBT, Outcome.RETRY])
async def test_followers_go_on_waiting_while_nothing_is_sure(
    ledger: Ledger, records: Records, outcome: Outcome
) -> None:
    taken = await planned_and_claimed(ledger, records, chain())
    await ledger.settle(taken, Settlement(outcome, due_at_ms=1))
    assert await states_of_chain(ledger) == ["blocked"] * 3


async def test_many_outcomes_at_once_are_each_recorded(ledger: Ledger, records: Records) -> None:
    """One that fails does not harm the others, though they may share a commit."""
    results = await records.write(ledger, *(order_only(str(n)) for n in range(90)))
    claims = [await claim(ledger, result.fresh[0]) for result in results]
    outcomes = [
        Settlement(list(Outcome)[n % len(Outcome)], due_at_ms=1) for n in range(len(claims))
    ]
    unknown = replace(claims[0], effect=replace(claims[0].effect, key=order_key("unknown")))
    settled = await asyncio.gather(
        ledger.settle(unknown, APPLIED),
        *(ledger.settle(taken, outcome) for taken, outcome in zip(claims, outcomes, strict=True)),
        return_exceptions=True,
    )
    assert isinstance(settled[0], NotFoundError)
    assert settled[1:] == [SettleResult.SETTLED] * 90
    states = [await state_of(ledger, order_key(str(n))) for n in range(5)]
    assert states == ["applied", "duplicate", "rejected", "in_doubt", "due"]


async def test_a_waiting_effect_can_be_made_due(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    taken = await planned_and_claimed(ledger, records, order_only("7"))
    assert not await ledger.make_due(order_key("7"), taken.attempt)  # still attempting
    later = Settlement(Outcome.RETRY, "missing", due_at_ms=clock.now_ms() + 60_000)
    await ledger.settle(taken, later)
    assert not await ledger.make_due(order_key("7"), taken.attempt + 1)
    assert not await ledger.make_due(order_key("8"), taken.attempt)
    assert await ledger.make_due(order_key("7"), taken.attempt)
    assert (await claim(ledger, taken.effect)).attempt == 2


@pytest.mark.parametrize(
    "order_id",
    ["Gr\u00fc\u00dfe \U0001f600", "'; --", "7:1:%_*", "x" * 2_000, "[1,null]"],
)
async def test_any_text_names_an_order(
    ledger: Ledger, records: Records, clock: FakeClock, order_id: str
) -> None:
    """Ids come from outside; the ledger takes them as they are."""
    taken = await planned_and_claimed(ledger, records, order_only(order_id))
    assert taken.effect.key == order_key(order_id)
    await ledger.settle(taken, Settlement(Outcome.IN_DOUBT))
    doubt = await ledger.doubt(order_key(order_id))
    assert doubt is not None
    clock.advance(86_400 * 365)
    await ledger.purge(limit=10)
    await ledger.record_look_up(doubt, LookUp(LookUpVerdict.DIFFERENT))
    shown = await ledger.show_order(order_id)
    assert [effect["state"] for effect in shown["effects"]] == ["rejected"]
    dead_letter = await ledger.dead_letter(shown["dead_letters"][0]["id"])
    assert (dead_letter.order_id, dead_letter.effect_key) == (order_id, order_key(order_id))
    (result,) = await records.write(ledger, order_only(order_id))
    assert result.disposition is Disposition.REPEATED


@pytest.mark.parametrize("order_id", ["a\0b", "\0"])
async def test_text_that_the_database_takes_in_no_case_is_refused_for_good(
    ledger_home: LedgerHome, records: Records, order_id: str
) -> None:
    """P3: it must not be tried for ever; what is planned beside it is not held up."""
    async with ledger_home.open(CONFIG) as ledger:
        good, odd = records.planned(order_only("7")), records.planned(order_only(order_id))
        results = await asyncio.gather(
            ledger.record_plans([odd], []),
            ledger.record_plans([good], []),
            return_exceptions=True,
        )
        assert isinstance(results[1], list)
        assert isinstance(results[0], list | PermanentError)
        assert (await ledger.show_effect(order_key("7")))["state"] == "due"


async def test_operations_on_one_effect_at_once_end_as_if_one_after_the_other(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    for number in range(30):
        first = await planned_and_claimed(ledger, records, order_only(str(number)))
        await ledger.settle(first, Settlement(Outcome.RETRY, due_at_ms=clock.now_ms()))
        second = await claim(ledger, first.effect)
        retry = Settlement(Outcome.RETRY, due_at_ms=clock.now_ms())
        _, late, again, twice = await asyncio.gather(
            ledger.settle(second, retry),
            ledger.settle(first, APPLIED),
            ledger.claim(first.effect, lease_s=LEASE_S),
            ledger.settle(first, APPLIED),
        )
        assert {late, twice} == {SettleResult.LATE, SettleResult.SETTLED}
        assert again is None or again.attempt == 3
        assert await state_of(ledger, order_key(str(number))) == "applied"
