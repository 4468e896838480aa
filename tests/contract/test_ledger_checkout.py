"""Captures, refunds, collects and balances: every point spent counts once."""

import asyncio
from dataclasses import dataclass, replace

import orjson
import pytest

from consumers.planner import RecordPlanner
from service.domain.call_planning import CallPlanner, CallPolicy, call_body
from service.domain.checkout import (
    Call,
    CallOperation,
    PlannedRefund,
    Reading,
    Recorded,
    Recording,
    Spending,
)
from service.domain.effects import EffectKey, Kind, Lane, Outcome, State, effect_key
from service.domain.errors import NotFoundError, WrongStateError
from service.domain.events import Customer
from service.domain.ledger import (
    Disposition,
    Ledger,
    LookUp,
    LookUpVerdict,
    PlannedRecord,
    Settlement,
)
from service.domain.planning import Earn, earn_fingerprint
from service.ledger.sql_ledger import SqlLedger
from service.splio.requests import SplioRenderer
from tests.contract.ledger_fixture import (
    APPLIED,
    CREDITS_VISIBLE_AFTER_S,
    LEASE_S,
    ORDERS_RETENTION_S,
    RETENTION_S,
    Records,
    claim,
    order_only,
    plan_one,
    state_of,
)
from tests.fakes.clock import FakeClock
from tests.unit.builders import POLICY

CARD = "2171707962088"
SPENT = Spending("club", "68ff99b4", "2345388", CARD, 1234, 1234, "EUR")
REWARDS = ((1, "PT1"), (10, "PT10"), (100, "PT100"), (1000, "PT1000"))


def spent(points: int, **changes: str) -> Spending:
    """Points that are the amount as well."""
    return replace(SPENT, amount=points, points=points, **changes)


@dataclass(slots=True)
class Desk:
    """Records calls as the use cases do."""

    ledger: SqlLedger
    clock: FakeClock
    planner: CallPlanner

    def call(self, operation: CallOperation, spending: Spending) -> Call:
        return Call(
            operation,
            f"call-{operation}-{spending.transaction_key}",
            spending.order_key,
            call_body(operation, spending),
            self.clock.now_ms(),
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )

    async def capture(self, spending: Spending = SPENT) -> Recording:
        call = self.call(CallOperation.CAPTURE, spending)
        return await self.ledger.record_capture(self.planner.capture(spending, call))

    async def refund(
        self, points: int, key: str = "r1", amount: int | None = None, **changes: str
    ) -> Recording:
        refund = self.planned_refund(points, key, amount, **changes)
        return await self.ledger.record_refund(refund)

    def planned_refund(
        self, points: int, key: str, amount: int | None = None, **changes: str
    ) -> PlannedRefund:
        """A refund of `points` as they are worth now; `amount` is as sent, else the points."""
        spending = spent(points, transaction_key=key, **changes)
        if amount is not None:
            spending = replace(spending, amount=amount)
        return self.planner.refund(spending, self.call(CallOperation.REFUND, spending))

    async def collect(self, order_id: str, points: int, card: str = CARD) -> Disposition:
        spending = Spending("club", "", order_id, card, points, points, None)
        plan = self.planner.collect(
            order_key=order_id, card=card, points=points, received_at_ms=self.clock.now_ms()
        )
        call = self.call(CallOperation.COLLECT, spending)
        return (await self.ledger.record_call(call, plan)).disposition

    async def held(self) -> int:
        return (await self.ledger.known_balance(CARD)).held


@pytest.fixture
def desk(ledger: Ledger, clock: FakeClock) -> Desk:
    """A desk without rewards: captures are settled by their holds."""
    assert isinstance(ledger, SqlLedger)
    return Desk(ledger, clock, CallPlanner(CallPolicy("main"), SplioRenderer()))


@pytest.fixture
def debiting(desk: Desk) -> Desk:
    """A desk that takes captured points by rewards."""
    policy = CallPolicy("main", rewards=REWARDS, points_limit=5000)
    return replace(desk, planner=CallPlanner(policy, SplioRenderer()))


def capture_key(transaction_key: str = SPENT.transaction_key) -> EffectKey:
    return effect_key("main", Kind.CAPTURE, "club", transaction_key)


def refund_key(transaction_key: str = "r1") -> EffectKey:
    return effect_key("main", Kind.REFUND, "club", transaction_key)


def debit_key(worth: int, revision: int = 1) -> EffectKey:
    return effect_key("main", Kind.DEBIT, "club", SPENT.transaction_key, str(revision), str(worth))


async def debit_all(desk: Desk, recording: Recording) -> list[EffectKey]:
    """Bring all debits of a capture to Splio, one after the other."""
    taken: list[EffectKey] = []
    ready = list(recording.fresh)
    while ready:
        for effect in ready:
            await desk.ledger.settle(await claim(desk.ledger, effect), APPLIED)
            taken.append(effect.key)
        now = desk.clock.now_ms() + 1
        ready = list(await desk.ledger.ready(Lane.OTHER, limit=10, due_before_ms=now))
    return taken


# -- captures


async def test_capture_lowers_the_balance_once_however_often_it_comes(desk: Desk) -> None:
    assert (await desk.capture()).recorded is Recorded.TAKEN
    assert (await desk.capture()).recorded is Recorded.REPEATED
    assert await desk.held() == 1234
    assert (await desk.ledger.show_effect(capture_key()))["duplicates_seen"] == 1


@pytest.mark.parametrize("change", [{"amount": 1235}, {"card": "4006381333931"}])
async def test_same_key_with_another_amount_or_card_is_a_dead_letter(
    desk: Desk, change: dict[str, object]
) -> None:
    await desk.capture()
    other = replace(SPENT, **change)  # type: ignore[arg-type]  # one of two fields
    assert (await desk.capture(other)).recorded is Recorded.CONFLICT
    assert (await desk.capture(other)).recorded is Recorded.CONFLICT
    assert await desk.held() == 1234
    (letter,) = (await desk.ledger.list_dead_letters()).items
    assert (letter["reason"], letter["times_seen"]) == ("conflict", 2)
    assert (await desk.ledger.dead_letter(letter["id"])).record == call_body(
        CallOperation.CAPTURE, other
    )


async def test_repeat_is_no_conflict_when_points_are_worth_something_else_by_then(
    desk: Desk,
) -> None:
    """Two days of repeats may pass over a change of the rate."""
    await desk.capture(replace(SPENT, amount=617))
    assert (await desk.capture(replace(SPENT, amount=617, points=617))).recorded is (
        Recorded.REPEATED
    )
    assert await desk.held() == 1234


async def test_capture_without_rewards_is_settled_and_sends_nothing(desk: Desk) -> None:
    recording = await desk.capture()
    assert recording.fresh == ()
    assert await state_of(desk.ledger, capture_key()) == State.APPLIED


async def test_debits_are_taken_one_after_the_other_and_add_up(debiting: Desk) -> None:
    recording = await debiting.capture()
    assert [effect.points for effect in recording.fresh] == [1000]
    taken = await debit_all(debiting, recording)
    assert taken == [debit_key(1000), debit_key(100), debit_key(10), debit_key(1)]


async def test_more_points_than_the_limit_wait_for_a_person(debiting: Desk) -> None:
    recording = await debiting.capture(spent(5001))
    assert recording.recorded is Recorded.TAKEN
    assert recording.fresh == ()
    assert await state_of(debiting.ledger, debit_key(1000)) == State.HELD
    assert await state_of(debiting.ledger, debit_key(1)) == State.BLOCKED
    assert await debiting.held() == 5001


async def test_capture_beyond_the_known_balance_says_so_and_is_taken(desk: Desk) -> None:
    await desk.ledger.record_balance(Reading(CARD, 1300, desk.clock.now_ms()))
    assert not (await desk.capture()).over_balance
    second = await desk.capture(spent(67, transaction_key="k2"))
    assert second.over_balance
    assert (await desk.ledger.known_balance(CARD)).usable == 0


# -- refunds


def test_refund_gives_back_points_that_can_be_spent(desk: Desk) -> None:
    renderer = SplioRenderer(points_kind="q")
    earning = replace(desk, planner=CallPlanner(CallPolicy("main"), renderer))
    body = orjson.loads(earning.planned_refund(500, "r1").request.body)
    assert (body["nq_points_quantity"], body["q_points_quantity"]) == (500, 0)


async def test_refund_shrinks_a_capture_that_was_not_attempted(desk: Desk) -> None:
    await desk.capture()
    assert (await desk.refund(234)).recorded is Recorded.TAKEN
    assert (await desk.refund(234)).recorded is Recorded.REPEATED
    assert await desk.held() == 1000
    assert await state_of(desk.ledger, refund_key()) == State.APPLIED


async def test_refunds_never_give_back_more_than_was_captured(desk: Desk) -> None:
    await desk.capture()
    assert (await desk.refund(1000, "r1")).recorded is Recorded.TAKEN
    assert (await desk.refund(235, "r2")).recorded is Recorded.MORE_THAN_CAPTURED
    assert (await desk.refund(234, "r3")).recorded is Recorded.TAKEN
    assert await desk.held() == 0
    (letter,) = (await desk.ledger.list_dead_letters()).items
    assert letter["reason"] == "more_than_captured"
    hold = await desk.ledger.show_hold(capture_key())
    assert hold["ended_at"] is not None
    assert [refund["effect_key"] for refund in hold["refunds"]] == [
        refund_key("r1"),
        refund_key("r3"),
    ]


async def test_refund_with_the_captures_own_key_finds_it(desk: Desk) -> None:
    await desk.capture()
    assert (await desk.refund(34, SPENT.transaction_key)).recorded is Recorded.TAKEN
    assert await desk.held() == 1200


@pytest.mark.parametrize("is_waiting", [False, True])
async def test_refund_of_another_amount_under_a_known_key_is_a_dead_letter(
    desk: Desk, is_waiting: bool
) -> None:
    if not is_waiting:
        await desk.capture()
    await desk.refund(500)
    for _ in range(2):
        assert (await desk.refund(501)).recorded is Recorded.CONFLICT
    (letter,) = (await desk.ledger.list_dead_letters()).items
    assert (letter["reason"], letter["effect_key"]) == ("conflict", refund_key())
    if is_waiting:
        await desk.capture()
    assert await desk.held() == 734


async def test_refund_of_another_card_is_not_that_captures(desk: Desk) -> None:
    await desk.capture()
    assert (await desk.refund(34, card="4006381333931")).recorded is Recorded.NO_CAPTURE
    by_key = await desk.refund(34, SPENT.transaction_key, card="4006381333931")
    assert by_key.recorded is Recorded.CONFLICT
    assert await desk.held() == 1234


async def test_unsent_debits_are_planned_anew_for_what_is_left(debiting: Desk) -> None:
    await debiting.capture()
    recording = await debiting.refund(500)
    assert [(effect.key, effect.points) for effect in recording.fresh] == [(debit_key(100, 2), 700)]
    assert await state_of(debiting.ledger, debit_key(1000)) == State.VOID
    assert await state_of(debiting.ledger, debit_key(1)) == State.VOID
    await debit_all(debiting, recording)
    assert await state_of(debiting.ledger, debit_key(1, 2)) == State.APPLIED


async def test_refund_of_a_capture_under_way_waits_for_its_last_debit(debiting: Desk) -> None:
    captured = await debiting.capture()
    (first,) = captured.fresh
    taken = await claim(debiting.ledger, first)
    recording = await debiting.refund(500)
    assert recording.fresh == ()
    assert await state_of(debiting.ledger, refund_key()) == State.BLOCKED
    await debiting.ledger.settle(taken, APPLIED)
    (second,) = await debiting.ledger.ready(
        Lane.OTHER, limit=10, due_before_ms=debiting.clock.now_ms() + 1
    )
    applied = await debit_all(debiting, Recording(Recorded.TAKEN, (second,)))
    assert applied[-1] == refund_key()
    assert await debiting.held() == 1234


async def test_refund_behind_a_rejected_debit_is_kept_for_a_person(debiting: Desk) -> None:
    (first,) = (await debiting.capture()).fresh
    taken = await claim(debiting.ledger, first)
    await debiting.refund(500)
    await debiting.ledger.settle(taken, Settlement(Outcome.HELD, reason="refused"))
    assert await state_of(debiting.ledger, debit_key(1000)) == State.HELD
    await debiting.ledger.reject(debit_key(1000), by="anna")
    assert await state_of(debiting.ledger, debit_key(1)) == State.VOID
    assert await state_of(debiting.ledger, refund_key()) == State.HELD
    assert await debiting.held() == 1234


async def test_refund_before_its_capture_is_taken_off_it(debiting: Desk) -> None:
    assert (await debiting.refund(500)).recorded is Recorded.NO_CAPTURE
    assert await state_of(debiting.ledger, refund_key()) == State.BLOCKED
    recording = await debiting.capture()
    assert [effect.points for effect in recording.fresh] == [700]
    assert await debiting.held() == 734
    assert await state_of(debiting.ledger, refund_key()) == State.APPLIED


async def test_waiting_refund_goes_to_a_person_and_still_finds_its_capture(desk: Desk) -> None:
    await desk.refund(500)
    desk.clock.advance(1)
    assert await desk.ledger.expire_waiting_refunds(older_than_ms=desk.clock.now_ms()) == 1
    assert await state_of(desk.ledger, refund_key()) == State.HELD
    assert await desk.ledger.expire_waiting_refunds(older_than_ms=desk.clock.now_ms()) == 0
    await desk.capture()
    assert await desk.held() == 734


async def test_waiting_refund_that_a_person_released_is_not_given_back_twice(desk: Desk) -> None:
    await desk.refund(500)
    desk.clock.advance(1)
    await desk.ledger.expire_waiting_refunds(older_than_ms=desk.clock.now_ms())
    await desk.ledger.release(refund_key(), by="anna")
    assert await state_of(desk.ledger, refund_key()) == State.DUE
    await desk.capture()
    assert await desk.held() == 1234
    assert await state_of(desk.ledger, refund_key()) == State.DUE
    assert (await desk.refund(735, "r2")).recorded is Recorded.MORE_THAN_CAPTURED


@pytest.mark.parametrize("is_debited", [False, True])
async def test_refunds_of_money_give_back_what_one_of_their_sum_would(
    desk: Desk, debiting: Desk, is_debited: bool
) -> None:
    """5.00 at 1.00 a point, given back as 1.67 and 1.67 and 1.66: never 2 + 2 + 2 points."""
    money = debiting if is_debited else desk
    await debit_all(money, await money.capture(replace(SPENT, amount=500, points=5)))
    credited = []
    for key, cents in (("r1", 167), ("r2", 167), ("r3", 166)):
        part = await money.refund(2, key, amount=cents)
        assert part.recorded is Recorded.TAKEN
        credited += [effect.points for effect in part.fresh]
    assert credited == ([2, 1, 2] if is_debited else [])
    assert await money.held() == (5 if is_debited else 0)
    assert (await desk.ledger.show_hold(capture_key()))["given_back"] == 5
    assert (await money.refund(2, "r3", amount=166)).recorded is Recorded.REPEATED
    assert (await money.refund(1, "r4", amount=1)).recorded is Recorded.MORE_THAN_CAPTURED


@pytest.mark.parametrize("is_debited", [False, True])
async def test_refund_of_money_is_worth_what_its_capture_was(
    desk: Desk, debiting: Desk, is_debited: bool
) -> None:
    """The rate was halved meanwhile: 10.00 would be 2,000 points today."""
    money = debiting if is_debited else desk
    await debit_all(money, await money.capture(replace(SPENT, amount=1000, points=1000)))
    part = await money.refund(500, "r1", amount=250)
    whole = await money.refund(1500, "r2", amount=750)
    assert (part.recorded, whole.recorded) == (Recorded.TAKEN, Recorded.TAKEN)
    fresh = [*part.fresh, *whole.fresh]
    assert [effect.points for effect in fresh] == ([250, 750] if is_debited else [])
    assert [orjson.loads(each.request.body)["nq_points_quantity"] for each in fresh] == [
        effect.points for effect in fresh
    ]
    assert (await desk.ledger.show_hold(capture_key()))["given_back"] == 1000


async def test_refund_of_less_than_half_a_point_is_taken_and_credits_nothing(
    debiting: Desk,
) -> None:
    await debit_all(debiting, await debiting.capture(replace(SPENT, amount=300, points=3)))
    less = await debiting.refund(1, "r1", amount=49)
    assert (less.recorded, less.fresh) == (Recorded.TAKEN, ())
    assert await state_of(debiting.ledger, refund_key("r1")) == State.APPLIED
    rest = await debiting.refund(1, "r2", amount=251)
    assert [effect.points for effect in rest.fresh] == [3]


async def test_waiting_refunds_of_money_are_worth_what_their_capture_is(desk: Desk) -> None:
    await desk.refund(2, "r1", amount=150)
    await desk.refund(1, "r2", amount=149)
    await desk.refund(1, "r3", amount=2)
    await desk.capture(replace(SPENT, amount=300, points=3))
    assert await desk.held() == 0
    points = [
        (await desk.ledger.show_effect(refund_key(key)))["points"] for key in ("r1", "r2", "r3")
    ]
    assert points == [2, 1, 1]
    assert await state_of(desk.ledger, refund_key("r3")) == State.HELD
    assert (await desk.ledger.show_hold(capture_key()))["given_back"] == 3


async def test_waiting_refund_that_a_person_released_counts_before_those_that_wait(
    desk: Desk,
) -> None:
    """As it is credited whatever comes, an older one must not take its place."""
    for key in ("r1", "r2"):
        await desk.refund(700, key)
        desk.clock.advance(1)
    await desk.ledger.expire_waiting_refunds(older_than_ms=desk.clock.now_ms())
    await desk.ledger.release(refund_key("r2"), by="anna")
    await desk.capture()
    assert await state_of(desk.ledger, refund_key("r1")) == State.HELD
    assert await state_of(desk.ledger, refund_key("r2")) == State.DUE
    assert await desk.held() == 1234
    assert (await desk.ledger.show_hold(capture_key()))["given_back"] == 700


async def test_refund_of_points_beyond_its_capture_is_refused_by_one_already(desk: Desk) -> None:
    await desk.capture(spent(5))
    await desk.refund(4, "r1")
    assert (await desk.refund(2, "r2")).recorded is Recorded.MORE_THAN_CAPTURED


async def test_waiting_refunds_beyond_the_capture_go_to_a_person(desk: Desk) -> None:
    await desk.refund(1000, "r1")
    await desk.refund(300, "r2")
    await desk.capture()
    assert await desk.held() == 234
    assert await state_of(desk.ledger, refund_key("r2")) == State.HELD


async def test_waiting_refund_beyond_one_capture_of_its_order_still_finds_its_own(
    desk: Desk,
) -> None:
    await desk.refund(500, "k2")
    await desk.capture(spent(300))
    assert await state_of(desk.ledger, refund_key("k2")) == State.HELD
    await desk.capture(spent(600, transaction_key="k2"))
    assert await state_of(desk.ledger, refund_key("k2")) == State.APPLIED
    assert await desk.held() == 400


async def test_capture_given_back_in_full_before_it_came_sends_nothing(debiting: Desk) -> None:
    await debiting.refund(1234)
    assert (await debiting.capture()).fresh == ()
    assert await debiting.held() == 0


async def test_refund_leaves_a_debit_alone_that_a_lost_ledger_may_have_sent(debiting: Desk) -> None:
    await debiting.capture(spent(1000))
    await debiting.ledger.recover({}, {})
    assert (await debiting.refund(500)).recorded is Recorded.TAKEN
    assert await debiting.held() == 1000
    assert await state_of(debiting.ledger, debit_key(1000)) == State.IN_DOUBT
    assert await state_of(debiting.ledger, refund_key()) == State.BLOCKED


async def test_every_waiting_refund_goes_to_a_person_however_many_went_before(desk: Desk) -> None:
    for number in range(513):
        await desk.refund(1, f"r{number}", order_key=str(number))
    desk.clock.advance(1)
    now_ms = desk.clock.now_ms()
    assert await desk.ledger.expire_waiting_refunds(older_than_ms=now_ms) == 512
    assert await desk.ledger.expire_waiting_refunds(older_than_ms=now_ms) == 1


async def test_waiting_refund_that_was_sent_is_not_taken_off_its_capture(desk: Desk) -> None:
    ledger, clock = desk.ledger, desk.clock
    await desk.refund(500)
    clock.advance(1)
    await ledger.expire_waiting_refunds(older_than_ms=clock.now_ms())
    await ledger.release(refund_key(), by="anna")
    (credit,) = await ledger.ready(Lane.OTHER, limit=10, due_before_ms=clock.now_ms() + 1)
    await ledger.settle(await claim(ledger, credit), Settlement(Outcome.IN_DOUBT, reason="lost"))
    clock.advance(CREDITS_VISIBLE_AFTER_S + LEASE_S)
    doubt = await ledger.doubt(refund_key())
    assert doubt is not None
    await ledger.record_look_up(doubt, LookUp(LookUpVerdict.HOLD, reason="absent_after_resends"))
    await desk.capture()
    assert await desk.held() == 1234
    assert await state_of(ledger, refund_key()) == State.HELD
    assert (await desk.refund(735, "r2")).recorded is Recorded.MORE_THAN_CAPTURED


async def test_refund_takes_up_no_debit_that_a_person_gave_up(debiting: Desk) -> None:
    await debiting.capture(spent(5001))
    await debiting.ledger.reject(debit_key(1000), by="anna")
    recording = await debiting.refund(2000)
    assert (recording.recorded, recording.fresh) == (Recorded.TAKEN, ())
    assert await debiting.held() == 3001


async def test_credit_of_more_points_than_the_limit_waits_for_a_person(debiting: Desk) -> None:
    recording = await debiting.capture(spent(6000))
    await debiting.ledger.release(debit_key(1000), by="anna")
    now_ms = debiting.clock.now_ms() + 1
    ready = await debiting.ledger.ready(Lane.OTHER, limit=9, due_before_ms=now_ms)
    await debit_all(debiting, replace(recording, fresh=tuple(ready)))
    assert (await debiting.refund(5001)).fresh == ()
    assert await state_of(debiting.ledger, refund_key()) == State.HELD
    await debiting.ledger.release(refund_key(), by="anna")
    assert await state_of(debiting.ledger, refund_key()) == State.DUE


async def test_waiting_refund_is_forgotten_once_nothing_can_come_of_it(desk: Desk) -> None:
    """It names a card."""
    ledger, clock = desk.ledger, desk.clock
    await desk.refund(500, "r1")
    await desk.refund(500, "r2")
    clock.advance(ORDERS_RETENTION_S + 1)
    assert await ledger.expire_waiting_refunds(older_than_ms=clock.now_ms()) == 2
    await ledger.reject(refund_key("r1"), by="anna")
    assert (await ledger.purge(limit=10)).waiting_refunds == 1
    assert (await ledger.purge(limit=10)).waiting_refunds == 0
    await desk.capture()
    assert await desk.held() == 734


# -- balances


async def test_hold_ends_with_the_balance_that_shows_its_debits(debiting: Desk) -> None:
    ledger, clock = debiting.ledger, debiting.clock
    recording = await debiting.capture(spent(1000))
    first = await ledger.record_balance(Reading(CARD, 5000, clock.now_ms()))
    assert first is not None
    assert first.usable == 4000
    (key,) = await debit_all(debiting, recording)
    clock.advance(1)
    assert (await ledger.known_balance(CARD)).unseen == (key,)
    assert (await ledger.tally()).oldest_unshown_ms == clock.now_ms() - 1000
    # Splio says 4000 or 5000: which, is not known before the debit was looked for.
    assert await ledger.record_balance(Reading(CARD, 4000, clock.now_ms())) is None
    assert (await ledger.known_balance(CARD)).usable == 4000
    considered = frozenset([key])
    unshown = await ledger.record_balance(Reading(CARD, 5000, clock.now_ms(), considered))
    assert unshown is not None
    assert unshown.usable == 4000
    clock.advance(1)
    shown = await ledger.record_balance(Reading(CARD, 4000, clock.now_ms(), considered, considered))
    assert shown is not None
    assert (shown.usable, shown.held, shown.unseen) == (4000, 0, ())
    assert (await ledger.tally()).oldest_unshown_ms is None
    assert await ledger.unsettled_cards(limit=10, after=None) == []


async def test_older_balance_never_takes_the_place_of_a_newer_one(desk: Desk) -> None:
    now_ms = desk.clock.now_ms()
    await desk.ledger.record_balance(Reading(CARD, 100, now_ms))
    known = await desk.ledger.record_balance(Reading(CARD, 900, now_ms - 1))
    assert known is not None
    assert known.usable == 100


async def test_balance_that_shows_a_debit_takes_the_place_of_one_that_does_not(
    debiting: Desk,
) -> None:
    """Also of one that is no older by the clocks: those of two processes differ."""
    ledger, asked_at_ms = debiting.ledger, debiting.clock.now_ms()
    recording = await debiting.capture(spent(1000))
    await ledger.record_balance(Reading(CARD, 5000, asked_at_ms))
    shown = frozenset(await debit_all(debiting, recording))
    known = await ledger.record_balance(Reading(CARD, 4000, asked_at_ms - 5, shown, shown))
    assert known is not None
    assert (known.usable, known.held) == (4000, 0)


async def test_balance_asked_before_a_debit_was_shown_is_not_taken_after(debiting: Desk) -> None:
    """Also by a process whose clock is ahead: the points would be free once more."""
    ledger, clock = debiting.ledger, debiting.clock
    (key,) = await debit_all(debiting, await debiting.capture(spent(1000)))
    begun = await ledger.known_balance(CARD)
    shown = frozenset([key])
    await ledger.record_balance(Reading(CARD, 4000, clock.now_ms(), shown, shown))
    late = Reading(CARD, 5000, clock.now_ms() + 50, shown, generation=begun.generation)
    assert await ledger.record_balance(late) is None
    known = await ledger.known_balance(CARD)
    assert (known.usable, known.held) == (4000, 0)
    newer = Reading(CARD, 4100, clock.now_ms() + 50, generation=known.generation)
    assert await ledger.record_balance(newer) is not None
    assert (await ledger.known_balance(CARD)).usable == 4100


async def test_balance_asked_before_a_hold_was_ended_is_not_taken_after(desk: Desk) -> None:
    await desk.capture()
    begun = await desk.ledger.known_balance(CARD)
    await desk.ledger.end_hold(capture_key(), by="anna")
    desk.clock.advance(86_399)
    await desk.ledger.purge(limit=10)
    late = Reading(CARD, 5000, desk.clock.now_ms() + 50, generation=begun.generation)
    assert await desk.ledger.record_balance(late) is None
    desk.clock.advance(2)
    assert (await desk.ledger.purge(limit=10)).balances == 1
    assert (await desk.ledger.known_balance(CARD)).asked_at_ms is None


async def test_card_that_splio_does_not_know_has_no_balance(desk: Desk) -> None:
    assert (await desk.ledger.known_balance(CARD)).asked_at_ms is None
    known = await desk.ledger.record_balance(Reading(CARD, None, desk.clock.now_ms()))
    assert known is not None
    assert known.usable is None


async def test_part_of_a_hold_ends_with_the_part_that_is_shown(debiting: Desk) -> None:
    ledger = debiting.ledger
    taken = await debit_all(debiting, await debiting.capture())
    now = debiting.clock.now_ms() + 1
    await ledger.record_balance(Reading(CARD, 4000, now, frozenset(taken), frozenset(taken[:1])))
    assert (await ledger.known_balance(CARD)).held == 234
    hold = await ledger.show_hold(capture_key())
    assert (hold["shown"], hold["ended_at"]) == (1000, None)


async def test_debit_found_after_a_recovery_ends_its_hold_when_it_is_shown(debiting: Desk) -> None:
    ledger, clock = debiting.ledger, debiting.clock
    await debiting.capture(spent(1000))
    await ledger.recover({}, {})
    with pytest.raises(WrongStateError):
        await ledger.end_hold(capture_key(), by="anna")
    assert await ledger.record_balance(Reading(CARD, 4000, clock.now_ms())) is None
    doubt = await ledger.doubt(debit_key(1000))
    assert doubt is not None
    await ledger.record_look_up(doubt, LookUp(LookUpVerdict.FOUND))
    sent = frozenset([debit_key(1000)])
    assert (await ledger.known_balance(CARD)).unseen == tuple(sent)
    known = await ledger.record_balance(Reading(CARD, 4000, clock.now_ms(), sent, sent))
    assert known is not None
    assert (known.usable, known.held) == (4000, 0)


# -- operators


async def plan_again(desk: Desk) -> PlannedRecord:
    """What a replay of the one dead letter plans."""
    (item,) = (await desk.ledger.list_dead_letters()).items
    planner = RecordPlanner(POLICY, SplioRenderer(), desk.planner)
    return planner.plan_again(await desk.ledger.dead_letter(item["id"]))


@pytest.mark.parametrize(
    ("points", "key", "card", "recorded"),
    [
        (1235, "r1", CARD, Recorded.MORE_THAN_CAPTURED),
        (34, SPENT.transaction_key, "4006381333931", Recorded.CONFLICT),
    ],
)
async def test_replay_credits_no_refund_that_was_refused(
    desk: Desk, points: int, key: str, card: str, recorded: Recorded
) -> None:
    await desk.capture()
    assert (await desk.refund(points, key, card=card)).recorded is recorded
    (item,) = (await desk.ledger.list_dead_letters()).items
    with pytest.raises(WrongStateError):
        await desk.ledger.replay(item["id"], await plan_again(desk), by="anna")
    with pytest.raises(NotFoundError):
        await desk.ledger.show_effect(refund_key(key))


async def test_replay_credits_a_refund_that_splio_refused(desk: Desk) -> None:
    await desk.capture()
    await desk.ledger.end_hold(capture_key(), by="anna")
    (credit,) = (await desk.refund(500)).fresh
    refused = Settlement(Outcome.REJECTED, reason="unknown_card")
    await desk.ledger.settle(await claim(desk.ledger, credit), refused)
    (item,) = (await desk.ledger.list_dead_letters()).items
    result = await desk.ledger.replay(item["id"], await plan_again(desk), by="anna")
    assert [effect.key for effect in result.fresh] == [refund_key()]


async def test_person_ends_a_hold_whose_points_were_taken_elsewhere(desk: Desk) -> None:
    await desk.capture()
    await desk.ledger.record_balance(Reading(CARD, 5000, desk.clock.now_ms()))
    await desk.ledger.end_hold(capture_key(), by="anna")
    known = await desk.ledger.known_balance(CARD)
    assert (known.held, known.asked_at_ms) == (0, None)
    with pytest.raises(WrongStateError):
        await desk.ledger.end_hold(capture_key(), by="anna")
    # What was taken is given back by a credit.
    (credit,) = (await desk.refund(500)).fresh
    assert credit.key == refund_key()


async def test_hold_with_debits_under_way_cannot_be_ended(debiting: Desk) -> None:
    (first,) = (await debiting.capture()).fresh
    taken = await claim(debiting.ledger, first)
    with pytest.raises(WrongStateError):
        await debiting.ledger.end_hold(capture_key(), by="anna")
    await debiting.ledger.settle(taken, Settlement(Outcome.HELD, reason="refused"))
    await debiting.ledger.end_hold(capture_key(), by="anna")
    assert await state_of(debiting.ledger, debit_key(1000)) == State.VOID


async def test_hold_can_be_ended_though_splio_never_shows_its_debits(debiting: Desk) -> None:
    """Applied for as long as Splio may take to show it, a debit is in the balance."""
    await debit_all(debiting, await debiting.capture())
    debiting.clock.advance(CREDITS_VISIBLE_AFTER_S)
    with pytest.raises(WrongStateError):
        await debiting.ledger.end_hold(capture_key(), by="anna")
    debiting.clock.advance(1)
    await debiting.ledger.end_hold(capture_key(), by="anna")
    assert await debiting.held() == 0
    # What was taken is given back by a credit.
    assert [effect.key for effect in (await debiting.refund(500)).fresh] == [refund_key()]


async def test_hold_can_be_ended_when_its_debit_in_doubt_was_given_up(debiting: Desk) -> None:
    (first,) = (await debiting.capture()).fresh
    doubtful = Settlement(Outcome.IN_DOUBT, reason="lost")
    await debiting.ledger.settle(await claim(debiting.ledger, first), doubtful)
    await debiting.ledger.reject(debit_key(1000), by="anna")
    with pytest.raises(WrongStateError):
        await debiting.ledger.end_hold(capture_key(), by="anna")
    debiting.clock.advance(CREDITS_VISIBLE_AFTER_S + 1)
    await debiting.ledger.end_hold(capture_key(), by="anna")
    assert await debiting.held() == 0


@pytest.mark.parametrize("refund", [1234, 1000])
async def test_refund_undoes_a_capture_whose_debit_was_refused(debiting: Desk, refund: int) -> None:
    """Nothing was taken, so nothing is credited; what is left is tried anew."""
    (first,) = (await debiting.capture()).fresh
    refused = Settlement(Outcome.HELD, reason="refused")
    await debiting.ledger.settle(await claim(debiting.ledger, first), refused)
    fresh = (await debiting.refund(refund)).fresh
    assert await debiting.held() == 1234 - refund
    assert [effect.key for effect in fresh] == ([] if refund == 1234 else [debit_key(100, 2)])
    assert await state_of(debiting.ledger, refund_key()) == State.APPLIED
    assert await state_of(debiting.ledger, debit_key(1000)) == State.VOID


async def test_refund_of_a_debit_that_was_in_doubt_ever_waits_for_it(debiting: Desk) -> None:
    """A refusal after a doubt may be Splio's way to say that it has it already."""
    (first,) = (await debiting.capture()).fresh
    doubtful = Settlement(Outcome.IN_DOUBT, reason="lost")
    await debiting.ledger.settle(await claim(debiting.ledger, first), doubtful)
    await debiting.refund(1234)
    assert await state_of(debiting.ledger, refund_key()) == State.BLOCKED
    assert await debiting.held() == 1234


async def test_refund_of_a_hold_that_a_person_ended_is_credited(debiting: Desk) -> None:
    """The points were taken by other means than the debit that Splio refused."""
    (first,) = (await debiting.capture()).fresh
    refused = Settlement(Outcome.HELD, reason="refused")
    await debiting.ledger.settle(await claim(debiting.ledger, first), refused)
    await debiting.ledger.end_hold(capture_key(), by="anna")
    (credit,) = (await debiting.refund(500)).fresh
    assert (credit.key, credit.points) == (refund_key(), 500)


async def test_debits_of_a_hold_that_a_person_ended_are_waited_for_no_longer(
    debiting: Desk,
) -> None:
    await debit_all(debiting, await debiting.capture())
    assert (await debiting.ledger.tally()).oldest_unshown_ms is not None
    debiting.clock.advance(CREDITS_VISIBLE_AFTER_S + 1)
    await debiting.ledger.end_hold(capture_key(), by="anna")
    assert (await debiting.ledger.tally()).oldest_unshown_ms is None


async def test_refund_that_a_person_releases_is_credited(debiting: Desk) -> None:
    """Also where the debit that it waited for was given up: the person says that it is owed."""
    (first,) = (await debiting.capture()).fresh
    taken = await claim(debiting.ledger, first)
    await debiting.refund(500)
    await debiting.ledger.settle(taken, Settlement(Outcome.HELD, reason="refused"))
    await debiting.ledger.end_hold(capture_key(), by="anna")
    await debiting.ledger.release(refund_key(), by="anna")
    assert await state_of(debiting.ledger, refund_key()) == State.DUE


async def test_refund_behind_a_hold_that_a_person_ended_is_kept_for_a_person(
    debiting: Desk,
) -> None:
    (first,) = (await debiting.capture()).fresh
    taken = await claim(debiting.ledger, first)
    await debiting.refund(500)
    await debiting.ledger.settle(taken, Settlement(Outcome.HELD, reason="refused"))
    assert await state_of(debiting.ledger, refund_key()) == State.BLOCKED
    await debiting.ledger.end_hold(capture_key(), by="anna")
    assert await state_of(debiting.ledger, refund_key()) == State.HELD


async def test_lists_of_holds_mask_the_card(desk: Desk) -> None:
    await desk.capture()
    (row,) = (await desk.ledger.list_holds(only_open=True, limit=10, after=None)).items
    assert (row["card"], row["held"], row["order_id"]) == ("…2088", 1234, SPENT.order_key)
    with pytest.raises(NotFoundError):
        await desk.ledger.show_hold(capture_key("k9"))


async def test_timeline_of_an_order_shows_what_was_spent_and_given_back(debiting: Desk) -> None:
    await debiting.capture()
    await debiting.refund(500)
    effects = (await debiting.ledger.show_order(SPENT.order_key))["effects"]
    assert {effect["kind"] for effect in effects} == {"capture", "debit", "refund"}


async def test_open_holds_are_counted(desk: Desk) -> None:
    await desk.capture()
    tally = await desk.ledger.tally()
    assert (tally.holds, tally.held_points, tally.unseen_credits) == (1, 1234, 0)
    await desk.refund(1234)
    tally = await desk.ledger.tally()
    assert (tally.holds, tally.held_points, tally.unseen_credits) == (0, 0, 0)


async def test_holds_are_counted_however_many_points_they_hold(desk: Desk) -> None:
    """A unit that was mistaken must not keep all else from being counted."""
    most = 2**63 - 1
    for key in ("k1", "k2"):
        await desk.capture(spent(most, transaction_key=key))
    tally = await desk.ledger.tally()
    assert (tally.holds, tally.held_points) == (2, 2 * most)
    assert await desk.held() == 2 * most


# -- collects


def with_earn(order_id: str, points: int) -> Earn:
    key = effect_key("main", Kind.EARN, order_id)
    return Earn(key, earn_fingerprint(CARD, points), is_collect=False)


async def test_collect_books_the_points_that_the_webhook_named(
    desk: Desk, records: Records
) -> None:
    await records.write(desk.ledger, replace(order_only("7"), earn=with_earn("7", 177)))
    assert await desk.collect("7", 177) is Disposition.PLANNED
    assert await desk.collect("7", 177) is Disposition.REPEATED
    assert await state_of(desk.ledger, effect_key("main", Kind.EARN, "7")) == State.DUE


async def test_collect_of_other_points_than_the_webhook_is_a_conflict(
    desk: Desk, records: Records
) -> None:
    await records.write(desk.ledger, replace(order_only("7"), earn=with_earn("7", 177)))
    for _ in range(2):  # a repeat is no sign that it was taken
        assert await desk.collect("7", 178) is Disposition.CONFLICT
    with pytest.raises(NotFoundError):
        await desk.ledger.show_effect(effect_key("main", Kind.EARN, "7"))


async def test_webhook_of_other_points_than_the_collect_posts_its_order(
    desk: Desk, records: Records
) -> None:
    await desk.collect("7", 178)
    order = await plan_one(desk.ledger, records, replace(order_only("7"), earn=with_earn("7", 177)))
    assert order.kind is Kind.ORDER
    (letter,) = (await desk.ledger.list_dead_letters()).items
    assert (letter["reason"], letter["effect_key"]) == ("conflict", "main:earn:7")


async def test_collect_that_does_not_come_is_counted_after_a_day(
    desk: Desk, records: Records
) -> None:
    await records.write(desk.ledger, replace(order_only("7"), earn=with_earn("7", 177)))
    await records.write(desk.ledger, replace(order_only("8"), earn=with_earn("8", 177)))
    await desk.collect("8", 177)
    assert (await desk.ledger.tally()).late_collects == 0
    desk.clock.advance(24 * 3600 + 1)
    assert (await desk.ledger.tally()).late_collects == 1


async def test_order_whose_collect_a_person_replayed_is_waited_for_no_longer(
    desk: Desk, records: Records
) -> None:
    await records.write(desk.ledger, replace(order_only("7"), earn=with_earn("7", 177)))
    await desk.collect("7", 178)
    (letter,) = (await desk.ledger.list_dead_letters()).items
    result = await desk.ledger.replay(letter["id"], await plan_again(desk), by="anna")
    assert [effect.points for effect in result.fresh] == [178]
    desk.clock.advance(24 * 3600 + 1)
    assert (await desk.ledger.tally()).late_collects == 0


async def test_many_balances_asked_for_at_once_are_those_of_their_cards(desk: Desk) -> None:
    """More of them than one statement takes, some with holds, some never asked about."""
    cards = [f"card-{number}" for number in range(300)]
    for number, card in enumerate(cards[:200]):
        await desk.ledger.record_balance(Reading(card, 1000 + number, desk.clock.now_ms()))
    for card in cards[100:102]:
        for key in ("one", "two"):
            await desk.capture(spent(10, card=card, transaction_key=card + key))
    known = await asyncio.gather(*map(desk.ledger.known_balance, cards))
    assert [each.at_splio for each in known] == [*range(1000, 1200), *[None] * 100]
    assert {card for card, each in zip(cards, known, strict=True) if each.held == 20} == {
        "card-100",
        "card-101",
    }
    assert sum(each.held for each in known) == 40


async def test_capture_shows_in_every_balance_asked_for_after_it(desk: Desk) -> None:
    """Also while others ask all the time."""
    await desk.ledger.record_balance(Reading(CARD, 10_000, desk.clock.now_ms()))
    at_least = 0

    async def shop() -> None:
        while at_least < 20:
            before = at_least
            assert (await desk.held()) >= before
            await asyncio.sleep(0)

    shopping = [asyncio.create_task(shop()) for _ in range(8)]
    for number in range(1, 21):
        await desk.capture(spent(1, transaction_key=f"k{number}"))
        at_least = number
        assert await desk.held() == number
    await asyncio.gather(*shopping)


# -- registrations


async def test_registration_begun_again_leaves_one_dead_letter_open(desk: Desk) -> None:
    """A shopper may ask any number of times; a person has one thing to look at, or none."""
    ledger, refused = desk.ledger, Settlement(Outcome.REJECTED, reason="refused")
    customer = Customer("7", None, "ada@example.com", None, None, None, False, False)
    plan = desk.planner.membership(
        program="1",
        contact_hash="a1",
        contact_id="ada@example.com",
        customer=customer,
        language=None,
    )
    (effect,) = plan.effects
    call = Call(CallOperation.REGISTER, "c1", effect.order_key, b"{}", desk.clock.now_ms(), "")

    async def open_letters() -> int:
        return len((await ledger.list_dead_letters(only_open=True)).items)

    (first,) = (await ledger.record_call(call, plan)).fresh
    assert await ledger.register_again(call, effect) is None
    await ledger.settle(await claim(ledger, first), refused)
    for is_long_ago in (False, False, True):
        assert await open_letters() == 1
        if is_long_ago:
            desk.clock.advance(RETENTION_S + 1)
            await ledger.purge(limit=99)
        again = await ledger.register_again(call, effect)
        assert again is not None
        assert await open_letters() == 0
        await ledger.settle(await claim(ledger, again), refused)
    assert await open_letters() == 1
