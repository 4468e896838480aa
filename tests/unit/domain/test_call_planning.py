"""Calls as plans: the same call has the same keys and bytes, and no two calls share a key."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.call_planning import (
    CallPlanner,
    CallPolicy,
    call_body,
    denominations,
    read_call,
)
from service.domain.checkout import Call, CallOperation, Spending
from service.domain.effects import Kind, State, idempotency_key
from service.domain.errors import PoisonMessageError
from service.domain.planning import Plan, Reason
from service.splio.requests import SplioRenderer
from tests.fakes.clock import START_MS
from tests.unit.builders import CARD, TRACEPARENT, make_customer

REWARDS = ((1, "PT1"), (10, "PT10"), (100, "PT100"), (1000, "PT1000"))
PLANNER = CallPlanner(CallPolicy("main", points_limit=5000, rewards=REWARDS), SplioRenderer())
SPENT = Spending("club", "4bd1f0a97c2e", "2345388", CARD, 1234, 1234, "EUR")
KEY_TEXT = st.text(min_size=1, max_size=200).filter(lambda text: text.isprintable())


def spent(**changes: Any) -> Spending:
    return Spending(
        **{
            "program": "club",
            "transaction_key": "4bd1f0a97c2e",
            "order_key": "2345388",
            "card": CARD,
            "amount": 1234,
            "points": 1234,
            "currency": "EUR",
            **changes,
        }
    )


def make_call(operation: CallOperation, spending: Spending, call_id: str = "call-1") -> Call:
    body = call_body(operation, spending)
    return Call(operation, call_id, spending.order_key, body, START_MS, TRACEPARENT)


def capture_key(transaction_key: str) -> str:
    spending = spent(transaction_key=transaction_key)
    return PLANNER.capture(spending, make_call(CallOperation.CAPTURE, spending)).key


# -- denominations


@given(
    points=st.integers(1, 10**6),
    worths=st.sets(st.integers(2, 10**5), max_size=6),
)
def test_denominations_add_up(points: int, worths: set[int]) -> None:
    """For any rewards of which one is worth 1; the largest first, none twice."""
    rewards = [(worth, f"PT{worth}") for worth in (1, *worths)]
    parts = denominations(points, rewards)
    assert sum(worth * quantity for worth, quantity, _ in parts) == points
    assert all(quantity > 0 for _, quantity, _ in parts)
    taken = [worth for worth, _, _ in parts]
    assert taken == sorted(set(taken), reverse=True)
    assert all(reward == f"PT{worth}" for worth, _, reward in parts)


def test_without_rewards_nothing_is_debited() -> None:
    assert denominations(1234, ()) == []


def test_debits_wait_for_the_one_before() -> None:
    capture = PLANNER.capture(SPENT, make_call(CallOperation.CAPTURE, SPENT))
    debits = capture.debits(SPENT, revision=1, received_at_ms=START_MS)
    assert [debit.key for debit in debits] == [
        f"main:debit:club:4bd1f0a97c2e:1:{worth}" for worth in (1000, 100, 10, 1)
    ]
    assert [debit.after for debit in debits] == [None, *(debit.key for debit in debits[:-1])]
    assert sum(debit.points for debit in debits) == SPENT.points
    assert all(debit.kind is Kind.DEBIT and debit.state is State.DUE for debit in debits)


def test_debits_of_a_later_revision_are_others() -> None:
    capture = PLANNER.capture(SPENT, make_call(CallOperation.CAPTURE, SPENT))
    first = capture.debits(SPENT, revision=1, received_at_ms=START_MS)
    second = capture.debits(SPENT, revision=2, received_at_ms=START_MS)
    assert not {debit.key for debit in first} & {debit.key for debit in second}


@pytest.mark.parametrize(("points", "state"), [(5000, State.DUE), (5001, State.HELD)])
def test_more_points_than_the_limit_wait_for_a_person(points: int, state: State) -> None:
    """The first debit holds the others."""
    spending = spent(points=points)
    capture = PLANNER.capture(spending, make_call(CallOperation.CAPTURE, spending))
    first, *others = capture.debits(spending, revision=1, received_at_ms=START_MS)
    assert first.state is state
    assert first.reason == (Reason.POINTS_OVER_LIMIT if state is State.HELD else None)
    assert all(debit.state is State.DUE for debit in others)
    collect = PLANNER.collect(
        order_key="1", card=CARD, points=points, received_at_ms=START_MS
    ).effects[0]
    assert collect.state is state


# -- keys


@given(keys=st.sets(KEY_TEXT, min_size=2, max_size=2))
def test_two_transaction_keys_are_two_keys(keys: set[str]) -> None:
    assert len({capture_key(key) for key in keys}) == 2


@given(key=KEY_TEXT)
def test_key_has_its_four_parts_whatever_the_transaction_key(key: str) -> None:
    made = capture_key(key)
    assert made.split(":")[:3] == ["main", "capture", "club"]
    assert made.count(":") == 3
    assert made.isascii() and len(made) <= len("main:capture:club:") + 64


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a:b", "a%3Ab"),
        ("a%", "a%25"),
        ("é", "%C3%A9"),
        ("a b", "a+b"),
        ("a/b", "a%2Fb"),
        ("x" * 64, "x" * 65),
        ("x" * 65, "x" * 66),
        ("é" * 11, "é" * 10 + "e"),
        ("x" * 65, f"sha256-{hashlib.sha256(b'x' * 65).hexdigest()[:40]}"),
        ("A", "a"),
    ],
)
def test_keys_that_look_alike_stay_apart(one: str, other: str) -> None:
    assert capture_key(one) != capture_key(other)


def test_key_of_scayle_stands_in_ours_as_it_is() -> None:
    assert capture_key("4bd1f0a97c2e") == "main:capture:club:4bd1f0a97c2e"


@given(key=KEY_TEXT, points=st.integers(1, 10**9), currency=st.sampled_from(("EUR", None)))
def test_same_call_has_the_same_keys_and_bytes(key: str, points: int, currency: str | None) -> None:
    """Whatever the delivery: another call id, nothing else."""
    spending = spent(transaction_key=key, points=points, currency=currency)
    plans = []
    for call_id in ("call-1", "call-2"):
        capture = PLANNER.capture(spending, make_call(CallOperation.CAPTURE, spending, call_id))
        refund = PLANNER.refund(spending, make_call(CallOperation.REFUND, spending, call_id))
        plans.append(
            (
                (capture.key, capture.fingerprint, capture.spending, capture.call.body),
                capture.debits(spending, revision=1, received_at_ms=START_MS),
                (refund.key, refund.capture_key, refund.fingerprint, refund.request),
            )
        )
    assert plans[0] == plans[1]
    assert plans[0][2][1] == plans[0][0][0], "a refund by the capture's key is of that capture"


@pytest.mark.parametrize("changes", [{"amount": 1235}, {"card": "4006381333931"}])
def test_another_amount_or_card_contradicts(changes: dict[str, Any]) -> None:
    one = PLANNER.capture(SPENT, make_call(CallOperation.CAPTURE, SPENT))
    other = PLANNER.capture(spent(**changes), make_call(CallOperation.CAPTURE, spent(**changes)))
    assert one.key == other.key
    assert one.fingerprint != other.fingerprint


def test_currency_order_and_worth_contradict_nothing() -> None:
    one = PLANNER.capture(SPENT, make_call(CallOperation.CAPTURE, SPENT))
    changed = spent(currency=None, order_key="7", points=617)
    other = PLANNER.capture(changed, make_call(CallOperation.CAPTURE, changed))
    assert (one.key, one.fingerprint) == (other.key, other.fingerprint)


def test_membership_is_named_by_programme_and_contact() -> None:
    def plan(language: str | None) -> Any:
        return PLANNER.membership(
            program="1",
            contact_hash="abc",
            contact_id="ada@example.com",
            customer=make_customer(),
            language=language,
        )

    (effect,) = plan("fr").effects
    assert effect.key == "main:member:1:abc"
    assert "ada" not in f"{effect.key}{effect.order_key}{effect.fingerprint}"
    assert plan("fr") == plan("fr")
    assert plan("de").effects[0].fingerprint == effect.fingerprint


# -- replays


def plan_again(body: bytes, *, kind: str = Kind.REFUND) -> Plan:
    return PLANNER.plan_again(body, kind=kind, call_id="again", received_at_ms=START_MS)


def test_refund_that_contradicts_its_capture_is_not_planned_again() -> None:
    with pytest.raises(PoisonMessageError):
        plan_again(call_body(CallOperation.REFUND, SPENT), kind="event")


@given(key=KEY_TEXT, points=st.integers(1, 10**9))
def test_replayed_refund_has_the_same_plan(key: str, points: int) -> None:
    spending = spent(transaction_key=key, points=points)
    call = make_call(CallOperation.REFUND, spending)
    refund = PLANNER.refund(spending, call)
    (effect,) = plan_again(call.body).effects
    assert (effect.key, effect.fingerprint, effect.request) == (
        refund.key,
        refund.fingerprint,
        refund.request,
    )
    assert effect.points == points
    assert effect.request is not None
    assert effect.request.idempotency_key == idempotency_key(refund.key)


def test_refund_of_fewer_points_is_the_same_refund_and_is_replayed_as_such() -> None:
    refund = PLANNER.refund(SPENT, make_call(CallOperation.REFUND, SPENT))
    less = refund.of_points(1233)
    assert (less.key, less.fingerprint) == (refund.key, refund.fingerprint)
    assert less.effect.points == 1233
    (again,) = plan_again(less.call.body).effects
    assert again == less.effect


@pytest.mark.parametrize("points", [177, 5001])
def test_replayed_collect_has_the_same_plan(points: int) -> None:
    spending = spent(points=points, transaction_key="")
    call = make_call(CallOperation.COLLECT, spending)
    plan = PLANNER.collect(
        order_key=spending.order_key, card=CARD, points=points, received_at_ms=START_MS
    )
    assert plan.effects[0].key == "main:earn:2345388"
    assert plan_again(call.body) == plan


@pytest.mark.parametrize(
    "body",
    [
        call_body(CallOperation.CAPTURE, SPENT),
        b'{"operation":"register","effect_key":"main:member:1:abc"}',
        call_body(CallOperation.REFUND, SPENT).replace(b"1234", b'"1234"'),
        call_body(CallOperation.REFUND, SPENT).replace(b"1234", b"true"),
        call_body(CallOperation.REFUND, SPENT).replace(b'"refund"', b'"steal"'),
        b"[]",
        b"nonsense",
    ],
)
def test_other_calls_are_not_planned_again(body: bytes) -> None:
    with pytest.raises(PoisonMessageError):
        plan_again(body)


@given(key=KEY_TEXT, points=st.integers(1, 10**18), currency=st.one_of(st.none(), st.just("EUR")))
def test_kept_call_is_read_as_it_was(key: str, points: int, currency: str | None) -> None:
    spending = spent(transaction_key=key, points=points, currency=currency)
    body = call_body(CallOperation.REFUND, spending)
    assert read_call(body) == (CallOperation.REFUND, spending)
