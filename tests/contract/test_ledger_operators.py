"""OperatorLedger and BrakeLedger: what people see and change, with who did it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from service.domain.effects import EffectKey, Kind, Lane, Outcome, RenderedRequest, State
from service.domain.errors import NotFoundError, WrongStateError
from service.domain.ledger import (
    Brake,
    Disposition,
    Ledger,
    LookUp,
    LookUpVerdict,
    Page,
    Settlement,
)
from service.domain.planning import Plan, PlannedEffect, Reason
from tests.contract.ledger_fixture import (
    APPLIED,
    CONFIG,
    LEASE_S,
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
    plan_with,
    planned_and_claimed,
    planned_effect,
    rejected_effect,
    state_of,
)
from tests.fakes.clock import FakeClock

KEY = order_key("7")


def keys_of(page: Page) -> list[str]:
    return [item["effect_key"] for item in page.items]


async def one_of_each(ledger: Ledger, records: Records) -> None:
    """Orders 0 to 8, each in another state, in the order of `State`."""
    follower = replace(planned_effect("0"), after=order_key("none"))
    voided = replace(planned_effect("8"), after=order_key("7"))
    await records.write(ledger, plan_with("0", follower), order_only("1"))
    await planned_and_claimed(ledger, records, order_only("2"))
    await in_doubt(ledger, records, order_only("3"))
    await records.write(ledger, plan_with("4", replace(planned_effect("4"), state=State.HELD)))
    for order_id, outcome in (
        ("5", Outcome.APPLIED),
        ("6", Outcome.DUPLICATE),
        ("7", Outcome.REJECTED),
    ):
        taken = await planned_and_claimed(ledger, records, order_only(order_id))
        await ledger.settle(taken, Settlement(outcome))
    await records.write(ledger, plan_with("8", voided))


async def test_effects_are_listed_by_state(ledger: Ledger, records: Records) -> None:
    await one_of_each(ledger, records)
    for number, state in enumerate(State):
        page = await ledger.list_effects(states=[state])
        assert (keys_of(page), page.next) == ([order_key(str(number))], None)
        assert page.items[0]["state"] == state
    assert len((await ledger.list_effects()).items) == len(State)
    page = await ledger.list_effects(states=[State.APPLIED, State.HELD], kind=Kind.ORDER)
    assert keys_of(page) == [order_key("4"), order_key("5")]
    assert (await ledger.list_effects(states=[State.APPLIED], kind=Kind.EARN)).items == []
    assert (await ledger.list_effects(states=[State.DUE], kind=Kind.EARN)).items == []


async def test_effects_are_listed_by_kind_and_order(ledger: Ledger, records: Records) -> None:
    await records.write(ledger, order_and_earn("7"), order_and_earn("70"), order_only("8"))
    assert keys_of(await ledger.list_effects(kind=Kind.EARN)) == [earn_key("7"), earn_key("70")]
    assert keys_of(await ledger.list_effects(order_id="7")) == [earn_key("7"), order_key("7")]
    assert keys_of(await ledger.list_effects(order_id="7", kind=Kind.ORDER)) == [order_key("7")]
    assert keys_of(await ledger.list_effects(order_id="7", states=[State.HELD])) == []
    assert keys_of(await ledger.list_effects(order_id="9")) == []


async def test_an_order_has_effects_whose_keys_go_on_behind_its_id(
    ledger: Ledger, records: Records
) -> None:
    """A key per item; an order whose id only begins the same is another."""
    item = replace(planned_effect("7:1"), order_key="7")
    await records.write(ledger, plan_with("7", item), order_only("7:2"), order_only("71"))
    assert keys_of(await ledger.list_effects(order_id="7")) == [order_key("7:1")]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"states": [State.DUE]}, {"kind": Kind.ORDER}, {"states": [State.DUE, State.APPLIED]}],
    ids=["all", "state", "kind", "states"],
)
async def test_pages_of_effects_follow_each_other(
    ledger: Ledger, records: Records, arguments: dict[str, Sequence[State] | Kind]
) -> None:
    await records.write(ledger, *(order_only(str(n)) for n in (3, 1, 2, 5, 4)))
    seen: list[str] = []
    after = None
    for expected in (2, 2, 1):
        page = await ledger.list_effects(limit=2, after=after, **arguments)  # type: ignore[arg-type]
        assert len(page.items) == expected
        seen += keys_of(page)
        after = page.next
    assert after is None
    assert seen == [order_key(str(n)) for n in (1, 2, 3, 4, 5)]
    exact = await ledger.list_effects(limit=5, **arguments)  # type: ignore[arg-type]
    assert (len(exact.items), exact.next) == (5, None)


async def test_pages_of_one_order_follow_each_other(ledger: Ledger, records: Records) -> None:
    await records.write(ledger, order_and_earn("7"))
    page = await ledger.list_effects(order_id="7", limit=1)
    assert (keys_of(page), page.next) == ([earn_key("7")], earn_key("7"))
    page = await ledger.list_effects(order_id="7", limit=1, after=page.next)
    assert (keys_of(page), page.next) == ([KEY], None)


async def test_an_effect_is_shown_with_the_columns_of_its_table(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    await records.write(ledger, earn_only("7"))
    shown = await ledger.show_effect(earn_key("7"))
    assert dict(shown) | {"traceparent": ""} == {
        "effect_key": earn_key("7"),
        "kind": "earn",
        "lane": "other",
        "order_key": "7",
        "after": None,
        "fingerprint": "f1:earn-facts",
        "state": "due",
        "attempt": 0,
        "due_at": clock.now_ms(),
        "lease_owner": None,
        "lease_until": None,
        "reason": None,
        "event_id": "event-0",
        "traceparent": "",
        "points": 12,
        "received_at": records.received_at_ms,
        "created_at": clock.now_ms(),
        "first_attempt_at": None,
        "started_at": None,
        "settled_at": None,
        "seen_at": None,
        "was_in_doubt": 0,
        "applied_attempt": None,
        "absence_counts_from": None,
        "resends": 0,
        "rounds": 0,
        "duplicates_seen": 0,
        "attempts": [],
    }


async def test_an_order_is_shown_with_all_that_happened(ledger: Ledger, records: Records) -> None:
    plan = plan_with("7", rejected_effect("7"), planned_effect("7", Kind.EARN))
    taken = await planned_and_claimed(ledger, records, plan)
    await ledger.settle(taken, APPLIED)
    shown = await ledger.show_order("7")
    assert shown["order_id"] == "7"
    assert [effect["effect_key"] for effect in shown["effects"]] == [earn_key("7"), KEY]
    assert [len(effect["attempts"]) for effect in shown["effects"]] == [1, 0]
    assert [letter["reason"] for letter in shown["dead_letters"]] == ["contact_key_missing"]


async def test_an_order_that_is_only_a_dead_letter_is_shown(
    ledger: Ledger, records: Records
) -> None:
    await records.write(ledger, dead_letter_plan("7"))
    shown = await ledger.show_order("7")
    assert (shown["effects"], len(shown["dead_letters"])) == ([], 1)


async def test_what_is_unknown_is_not_found(ledger: Ledger, records: Records) -> None:
    planned = records.planned(order_only("7"))
    for action in (
        ledger.show_effect(KEY),
        ledger.show_order("7"),
        ledger.release(KEY, by="anna"),
        ledger.reject(KEY, by="anna"),
        ledger.dead_letter(1),
        ledger.dismiss(1, by="anna"),
        ledger.replay(1, planned, by="anna"),
    ):
        with pytest.raises(NotFoundError):
            await action


async def test_a_released_effect_is_due(ledger: Ledger, records: Records, clock: FakeClock) -> None:
    await records.write(ledger, plan_with("7", held_effect("7")))
    clock.advance(60)
    await ledger.release(earn_key("7"), by="anna")
    shown = await ledger.show_effect(earn_key("7"))
    assert (shown["state"], shown["due_at"], shown["reason"]) == ("due", clock.now_ms(), None)
    (note,) = shown["attempts"]
    assert (note["outcome"], note["by"], note["ended_at"]) == ("released", "anna", clock.now_ms())
    (effect,) = await ledger.ready(Lane.OTHER, limit=9, due_before_ms=clock.now_ms() + 1)
    assert (await claim(ledger, effect)).attempt == 1


async def test_a_released_follower_goes_on_waiting(ledger: Ledger, records: Records) -> None:
    await records.write(ledger, plan_with("7", replace(held_effect("7"), after=KEY)))
    await ledger.release(earn_key("7"), by="anna")
    assert await state_of(ledger, earn_key("7")) == "blocked"


async def test_only_what_is_held_can_be_released(ledger: Ledger, records: Records) -> None:
    await one_of_each(ledger, records)
    for number, state in enumerate(State):
        if state is not State.HELD:
            with pytest.raises(WrongStateError):
                await ledger.release(order_key(str(number)), by="anna")
            assert await state_of(ledger, order_key(str(number))) == state


async def test_a_person_rejects_what_is_held_or_in_doubt(ledger: Ledger, records: Records) -> None:
    follower = replace(planned_effect("7"), after=earn_key("7"))
    await records.write(ledger, plan_with("7", held_effect("7"), follower))
    await in_doubt(ledger, records, order_only("8"))
    for key in (earn_key("7"), order_key("8")):
        await ledger.reject(key, by="anna")
        shown = await ledger.show_effect(key)
        assert (shown["state"], shown["reason"]) == ("rejected", "by_operator")
        assert (shown["attempts"][-1]["by"], shown["attempts"][-1]["outcome"]) == (
            "anna",
            "rejected",
        )
    assert await state_of(ledger, KEY) == "void"
    items = (await ledger.list_dead_letters(reason="by_operator")).items
    assert [item["effect_key"] for item in items] == [earn_key("7"), order_key("8")]
    assert items[0]["detail"] == "was held: points_over_limit"


async def test_only_what_is_held_or_in_doubt_can_be_rejected(
    ledger: Ledger, records: Records
) -> None:
    await one_of_each(ledger, records)
    letters = len((await ledger.list_dead_letters()).items)
    for number, state in enumerate(State):
        if state not in {State.HELD, State.IN_DOUBT}:
            with pytest.raises(WrongStateError):
                await ledger.reject(order_key(str(number)), by="anna")
            assert await state_of(ledger, order_key(str(number))) == state
    assert len((await ledger.list_dead_letters()).items) == letters


async def test_dead_letters_are_listed_by_reason_time_and_openness(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    start = clock.now_ms()
    for number, reason in enumerate((Reason.SHOP_MISSING, Reason.UNREADABLE, Reason.SHOP_MISSING)):
        await records.write(ledger, dead_letter_plan(str(number), reason))
        clock.advance(1)
    everything = (await ledger.list_dead_letters()).items
    first, second, third = (item["id"] for item in everything)
    assert first < second < third
    assert set(everything[0]) >= {
        "id", "reason", "kind", "order_id", "at", "replayed_at", "dismissed_at", "times_seen",
        "detail", "event_id", "event_type", "topic", "partition", "offset",
    }  # fmt: skip
    assert not {"value", "record", "headers"} & set(everything[0])

    async def ids(**arguments: object) -> list[int]:
        page = await ledger.list_dead_letters(**arguments)  # type: ignore[arg-type]
        return [item["id"] for item in page.items]

    assert await ids(reason="shop_missing") == [first, third]
    assert await ids(since_ms=start + 1_000) == [second, third]
    assert await ids(until_ms=start + 1_000) == [first]
    assert await ids(since_ms=start + 1_000, until_ms=start + 1_001) == [second]
    await ledger.dismiss(second, by="anna")
    assert await ids(only_open=True) == [first, third]
    page = await ledger.list_dead_letters(limit=2)
    assert page.next == str(second)
    assert await ids(limit=2, after=page.next) == [third]


async def test_a_dead_letter_is_dismissed_once(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    await records.write(ledger, dead_letter_plan("7"))
    (item,) = (await ledger.list_dead_letters()).items
    clock.advance(1)
    await ledger.dismiss(item["id"], by="anna")
    (item,) = (await ledger.list_dead_letters()).items
    assert (item["dismissed_at"], item["dismissed_by"]) == (clock.now_ms(), "anna")
    assert (await ledger.dead_letter(item["id"])).dismissed_at_ms == clock.now_ms()
    with pytest.raises(WrongStateError):
        await ledger.dismiss(item["id"], by="ben")
    with pytest.raises(WrongStateError):
        await ledger.replay(item["id"], records.planned(order_only("7")), by="ben")


async def only_dead_letter(ledger: Ledger) -> int:
    (item,) = (await ledger.list_dead_letters(only_open=True)).items
    dead_letter_id: int = item["id"]
    return dead_letter_id


async def test_a_replayed_record_is_planned(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    await records.write(ledger, dead_letter_plan("7"))
    letter_id = await only_dead_letter(ledger)
    result = await ledger.replay(letter_id, records.planned(order_and_earn("7")), by="anna")
    assert result.disposition is Disposition.PLANNED
    assert [effect.key for effect in result.fresh] == [KEY, earn_key("7")]
    letter = await ledger.dead_letter(letter_id)
    assert (letter.replayed_at_ms, letter.dismissed_at_ms) == (clock.now_ms(), None)
    (item,) = (await ledger.list_dead_letters()).items
    assert item["replayed_by"] == "anna"
    taken = await claim(ledger, result.fresh[0])
    await ledger.settle(taken, Settlement(Outcome.REJECTED, reason="refused"))
    again = await ledger.dead_letter(await only_dead_letter(ledger))
    assert (again.offset, again.effect_key) == (letter.offset, KEY)


async def test_a_dead_letter_is_replayed_once(ledger: Ledger, records: Records) -> None:
    await records.write(ledger, dead_letter_plan("7"))
    letter_id = await only_dead_letter(ledger)
    planned = records.planned(order_only("7"))
    results = await asyncio.gather(
        *(ledger.replay(letter_id, planned, by="anna") for _ in range(3)), return_exceptions=True
    )
    assert sum(isinstance(result, WrongStateError) for result in results) == 2
    with pytest.raises(WrongStateError):
        await ledger.dismiss(letter_id, by="anna")


def new_order(order_id: str) -> PlannedEffect:
    request = RenderedRequest("/data/v2/orders", b'{"external_id":"1","new":true}')
    return replace(planned_effect(order_id), request=request)


async def test_a_rejected_effect_takes_its_new_plan(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    taken = await planned_and_claimed(ledger, records, order_only("7"))
    await ledger.settle(taken, Settlement(Outcome.RETRY, "missing", due_at_ms=1, is_round=True))
    assert await ledger.make_due(taken.effect.key, taken.attempt)
    taken = await claim(ledger, taken.effect)
    await ledger.settle(taken, Settlement(Outcome.REJECTED, reason="refused"))
    clock.advance(3_600)
    planned = records.planned(plan_with("7", new_order("7")))
    result = await ledger.replay(await only_dead_letter(ledger), planned, by="anna")
    (effect,) = result.fresh
    assert effect.request.body == b'{"external_id":"1","new":true}'
    assert await ledger.claim(taken.effect, lease_s=LEASE_S) is None, "its old bytes are no more"
    again = await claim(ledger, effect)
    assert (again.attempt, again.rounds) == (3, 0), "attempts go on counting"
    assert again.first_attempt_at_ms == clock.now_ms(), "a new age"
    await ledger.settle(again, APPLIED)
    shown = await ledger.show_effect(KEY)
    assert shown["state"] == "applied"
    assert [(note["outcome"], note["by"]) for note in shown["attempts"]] == [
        ("retry", None),
        ("rejected", None),
        ("replayed", "anna"),
        ("applied", None),
    ]


async def test_a_replayed_effect_may_be_held(ledger: Ledger, records: Records) -> None:
    await records.write(
        ledger, plan_with("7", replace(held_effect("7"), state=State.REJECTED, request=None))
    )
    result = await ledger.replay(
        await only_dead_letter(ledger), records.planned(plan_with("7", held_effect("7"))), by="anna"
    )
    assert (result.disposition, result.fresh) == (Disposition.PLANNED, ())
    assert await state_of(ledger, earn_key("7")) == "held"
    await ledger.release(earn_key("7"), by="anna")
    assert (await ledger.ready(Lane.OTHER, limit=1, due_before_ms=2**62))[0].points == 12


async def test_a_rejected_effect_that_is_replayed_and_rejected_again_is_a_new_dead_letter(
    ledger: Ledger, records: Records
) -> None:
    taken = await planned_and_claimed(ledger, records, order_only("7"))
    for _ in range(2):
        await ledger.settle(taken, Settlement(Outcome.REJECTED, reason="refused"))
        letter_id = await only_dead_letter(ledger)
        result = await ledger.replay(letter_id, records.planned(order_only("7")), by="anna")
        taken = await claim(ledger, result.fresh[0])
    assert len((await ledger.list_dead_letters()).items) == 2


async def test_a_replay_leaves_effects_that_are_known_otherwise(
    ledger: Ledger, records: Records
) -> None:
    plan = plan_with("7", rejected_effect("7"), planned_effect("7", Kind.EARN))
    taken = await planned_and_claimed(ledger, records, plan)
    planned = records.planned(order_and_earn("7"))
    result = await ledger.replay(await only_dead_letter(ledger), planned, by="anna")
    assert [effect.key for effect in result.fresh] == [KEY]
    assert await state_of(ledger, earn_key("7")) == "attempting"
    await ledger.settle(taken, APPLIED)


async def test_a_replay_does_not_bring_back_what_has_its_own_dead_letter(
    ledger: Ledger, records: Records
) -> None:
    """A person rejected the booking; the order's replay does not undo that."""
    plan = plan_with("7", rejected_effect("7"), held_effect("7"))
    await records.write(ledger, plan)
    letter_id = await only_dead_letter(ledger)
    await ledger.reject(earn_key("7"), by="anna")
    await ledger.replay(letter_id, records.planned(order_and_earn("7")), by="ben")
    assert await state_of(ledger, KEY) == "due"
    assert await state_of(ledger, earn_key("7")) == "rejected"


async def test_a_replay_that_finds_the_effect_applied_changes_nothing(
    ledger: Ledger, records: Records
) -> None:
    """A late success came before the replay: it must not be sent again."""
    taken = await in_doubt(ledger, records, order_only("7"))
    await ledger.reject(KEY, by="anna")
    await ledger.settle(taken, APPLIED)
    letter_id = await only_dead_letter(ledger)
    result = await ledger.replay(letter_id, records.planned(order_only("7")), by="anna")
    assert (result.disposition, result.fresh) == (Disposition.REPEATED, ())
    assert await state_of(ledger, KEY) == "applied"


async def test_a_replay_that_is_ignored_now_closes_the_dead_letter(
    ledger: Ledger, records: Records
) -> None:
    await records.write(ledger, dead_letter_plan("7"))
    planned = records.planned(Plan("7", ignored=Reason.UNMAPPED_SHOP))
    result = await ledger.replay(await only_dead_letter(ledger), planned, by="anna")
    assert result.disposition is Disposition.IGNORED
    assert (await ledger.tally()).open_dead_letters == 0


@pytest.mark.parametrize(
    "plan",
    [dead_letter_plan("7"), plan_with("7", rejected_effect("7"))],
    ids=["dead letter", "rejected"],
)
async def test_a_replay_that_is_rejected_again_changes_nothing(
    ledger: Ledger, records: Records, plan: Plan
) -> None:
    await records.write(ledger, plan)
    letter_id = await only_dead_letter(ledger)
    with pytest.raises(WrongStateError, match="rejected_again"):
        await ledger.replay(letter_id, records.planned(plan), by="anna")
    assert await only_dead_letter(ledger) == letter_id
    assert len((await ledger.list_dead_letters()).items) == 1


async def test_a_replay_in_conflict_changes_nothing(ledger: Ledger, records: Records) -> None:
    other = plan_with(
        "7",
        replace(planned_effect("7"), fingerprint="f1:other"),
        planned_effect("7", Kind.EARN),
    )
    await records.write(ledger, order_only("7"), other)
    letter_id = await only_dead_letter(ledger)
    with pytest.raises(WrongStateError, match="conflict"):
        await ledger.replay(letter_id, records.planned(other), by="anna")
    assert await only_dead_letter(ledger) == letter_id
    assert keys_of(await ledger.list_effects()) == [KEY]


async def test_operators_do_not_meet_each_other(ledger: Ledger, records: Records) -> None:
    """Of two who reject and release the same at once, one is told."""
    await records.write(ledger, plan_with("7", held_effect("7")))
    key: EffectKey = earn_key("7")
    results = await asyncio.gather(
        ledger.release(key, by="anna"), ledger.reject(key, by="ben"), return_exceptions=True
    )
    assert sum(isinstance(result, WrongStateError) for result in results) == 1


async def test_a_brake_holds_until_a_person_releases_it(
    ledger_home: LedgerHome, clock: FakeClock
) -> None:
    since = clock.now_ms()
    async with ledger_home.open(CONFIG) as ledger:
        assert await ledger.brakes() == []
        assert not await ledger.release_brake("sales", by="anna")
        await ledger.set_brake("sales", "20 in a row")
        await ledger.set_brake("intake", "planning_failed")
        clock.advance(5)
        await ledger.set_brake("sales", "again")  # what stands still keeps its first reason
    both = [Brake("intake", "planning_failed", since), Brake("sales", "20 in a row", since)]
    async with ledger_home.open(CONFIG) as ledger:
        assert await ledger.brakes() == both
        assert await ledger.release_brake("sales", by="anna")
        assert not await ledger.release_brake("sales", by="anna")
        assert await ledger.brakes() == both[:1]
        await ledger.set_brake("sales", "again")
        assert Brake("sales", "again", clock.now_ms()) in await ledger.brakes()


async def test_a_look_up_by_an_operator_after_release_finds_nothing_in_doubt(
    ledger: Ledger, records: Records, clock: FakeClock
) -> None:
    await in_doubt(ledger, records, order_only("7"))
    doubt = await ledger.doubt(KEY)
    assert doubt is not None
    clock.advance(86_400)
    await ledger.record_look_up(doubt, LookUp(LookUpVerdict.HOLD))
    await ledger.release(KEY, by="anna")
    assert await ledger.record_look_up(doubt, LookUp(LookUpVerdict.FOUND)) is None
    assert await state_of(ledger, KEY) == "due"


async def test_a_replay_leaves_points_to_the_way_that_the_order_was_planned_with(
    ledger: Ledger, records: Records
) -> None:
    """P2: another way was set meanwhile, and the former one may have booked them."""
    await records.write(ledger, plan_with("7", rejected_effect("7")))
    letter_id = await only_dead_letter(ledger)
    result = await ledger.replay(letter_id, records.planned(order_and_earn("7")), by="anna")
    assert [effect.key for effect in result.fresh] == [KEY]
    assert keys_of(await ledger.list_effects()) == [KEY]


@pytest.mark.parametrize(
    "plan",
    [Plan("7", ignored=Reason.UNMAPPED_SHOP), order_only("7")],
    ids=["ignored", "without it"],
)
async def test_a_replay_that_leaves_its_effect_out_does_not_close_the_dead_letter(
    ledger: Ledger, records: Records, plan: Plan
) -> None:
    """P3: the settings changed; the points would be forgotten with nobody told."""
    taken = await planned_and_claimed(ledger, records, earn_only("7"))
    await ledger.settle(taken, Settlement(Outcome.REJECTED, reason="unknown_card"))
    letter_id = await only_dead_letter(ledger)
    with pytest.raises(WrongStateError, match="no_longer_planned"):
        await ledger.replay(letter_id, records.planned(plan), by="anna")
    assert await only_dead_letter(ledger) == letter_id


async def test_a_replay_of_a_credit_that_splio_shows_is_looked_up(
    ledger: Ledger, records: Records
) -> None:
    taken = await planned_and_claimed(ledger, records, earn_only("7"))
    await ledger.settle(taken, Settlement(Outcome.REJECTED, reason="refused"))
    await ledger.mark_seen([earn_key("7")], "c1")
    assert await state_of(ledger, earn_key("7")) == "rejected"
    letter_id = await only_dead_letter(ledger)
    result = await ledger.replay(letter_id, records.planned(earn_only("7")), by="anna")
    assert result.fresh == ()
    assert await state_of(ledger, earn_key("7")) == "in_doubt"
