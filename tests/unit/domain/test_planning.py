"""Planning: what a confirmed order asks for, what is ignored, held or set aside, and why."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.effects import EffectKey, Kind, Lane, RenderedRequest, State
from service.domain.events import OrderConfirmed
from service.domain.money import UnknownCurrencyError, json_number
from service.domain.planning import (
    ContactKey,
    GuestOrders,
    Plan,
    PlannedEffect,
    PlanningPolicy,
    PointsFrom,
    Reason,
    Shop,
    contact_id,
    plan_order_confirmed,
)
from service.domain.points import Rounding
from tests.unit.builders import (
    CARD,
    POLICY,
    SHOP,
    make_card,
    make_customer,
    make_item,
    make_order,
)

LYON = Shop(store="lyon", program="7", timezone="Europe/Paris")


class Renderer:
    """Renders what it is given, as text; refuses a currency that money does not know."""

    def order(self, order: OrderConfirmed, *, contact_id: str, shop: Shop) -> RenderedRequest:
        total = json_number(order.total_minor, order.currency)
        body = f"{order.order_id} {contact_id} {shop.store} {total}"
        return RenderedRequest("/orders", body.encode())

    def earned_points(
        self, order: OrderConfirmed, *, key: EffectKey, card: str, points: int, shop: Shop
    ) -> RenderedRequest:
        return RenderedRequest("/credit", f"{key} {card} {points} {shop.program}".encode())


def plan(order: OrderConfirmed, policy: PlanningPolicy = POLICY) -> Plan:
    return plan_order_confirmed(order, policy, Renderer())


def effects(order: OrderConfirmed, policy: PlanningPolicy = POLICY) -> dict[Kind, PlannedEffect]:
    planned = plan(order, policy).effects
    by_kind = {effect.kind: effect for effect in planned}
    assert len(by_kind) == len(planned)
    return by_kind


def test_an_order_with_card_is_posted_and_its_points_booked() -> None:
    planned = plan(make_order())

    post, earn = planned.effects
    assert planned.order_key == "1001"
    assert (post.key, post.kind, post.lane) == ("main:order:1001", Kind.ORDER, Lane.SALES)
    assert (earn.key, earn.kind, earn.lane) == ("main:earn:1001", Kind.EARN, Lane.OTHER)
    assert post.state == earn.state == State.DUE
    assert post.after is None and earn.after is None  # they do not wait for each other
    assert (post.points, earn.points) == (0, 177)
    assert post.request is not None
    assert post.request.body == b"1001 ada@example.com online 64.85"
    assert earn.request is not None
    assert earn.request.body == f"main:earn:1001 {CARD} 177 None".encode()
    assert post.reason is None and earn.reason is None


def test_facts_hold_what_later_events_need() -> None:
    items = (make_item("11", amount_minor=100), make_item("12", amount_minor=200))

    facts = plan(make_order(items=items)).facts

    assert facts is not None
    assert (facts.order_key, facts.card, facts.points) == ("1001", CARD, 177)
    assert (facts.currency, facts.points_from) == ("EUR", PointsFrom.WEBHOOK)
    assert facts.items == (("11", 100), ("12", 200))


@pytest.mark.parametrize("points", [None, 0])
def test_without_points_nothing_is_booked(points: int | None) -> None:
    planned = effects(make_order(card=make_card(points)))

    assert set(planned) == {Kind.ORDER}


def test_without_card_nothing_is_booked() -> None:
    planned = plan(make_order(card=None))

    assert [effect.kind for effect in planned.effects] == [Kind.ORDER]
    assert planned.facts is not None and planned.facts.card is None


def test_orders_of_test_customers_are_ignored_before_anything_else() -> None:
    order = make_order(customer=make_customer(is_test=True), app_id=None)

    planned = plan(order, replace(POLICY, shops={"1": LYON}))

    assert (planned.ignored, planned.effects, planned.dead_letter) == (
        Reason.TEST_CUSTOMER,
        (),
        None,
    )


def test_a_mapped_shop_gives_store_programme_and_zone() -> None:
    planned = effects(make_order(app_id="1042"), replace(POLICY, shops={"1042": LYON}))

    post, earn = planned[Kind.ORDER].request, planned[Kind.EARN].request
    assert post is not None and b" lyon " in post.body
    assert earn is not None and earn.body.endswith(b" 7")


def test_an_unmapped_shop_is_ignored() -> None:
    planned = plan(make_order(app_id="9"), replace(POLICY, shops={"1042": LYON}))

    assert (planned.ignored, planned.effects) == (Reason.UNMAPPED_SHOP, ())


def test_an_order_of_no_shop_is_a_dead_letter_where_shops_matter() -> None:
    policy = replace(POLICY, shops={"1042": LYON})

    planned = plan(make_order(app_id=None), policy)

    assert (planned.dead_letter, planned.effects) == (Reason.SHOP_MISSING, ())
    assert plan(make_order(app_id=None)).dead_letter is None


@pytest.mark.parametrize("customer", [None, make_customer(is_guest=True)])
@pytest.mark.parametrize(
    ("card", "setting", "ignored"),
    [
        (None, GuestOrders.SKIP, Reason.GUEST_ORDER),
        (None, GuestOrders.POST, None),
        (make_card(), GuestOrders.SKIP, None),
        (make_card(), GuestOrders.POST, None),
    ],
)
def test_only_guests_without_card_are_skipped(
    customer: Any, card: Any, setting: GuestOrders, ignored: Reason | None
) -> None:
    order = make_order(customer=customer, card=card)

    planned = plan(order, replace(POLICY, guest_orders=setting))

    assert planned.ignored is ignored
    assert bool(planned.effects) is (ignored is None)


def test_members_without_card_are_posted_when_guests_are_skipped() -> None:
    policy = replace(POLICY, guest_orders=GuestOrders.SKIP)

    assert set(effects(make_order(card=None), policy)) == {Kind.ORDER}


@pytest.mark.parametrize(
    "change",
    [
        {"customer": None},
        {"customer": make_customer(email=None)},
        {"customer": make_customer(email="")},
    ],
)
def test_points_are_booked_even_when_the_order_cannot_be_posted(change: dict[str, Any]) -> None:
    planned = effects(make_order(**change))

    assert planned[Kind.ORDER].state is State.REJECTED
    assert planned[Kind.ORDER].reason is Reason.CONTACT_KEY_MISSING
    assert planned[Kind.ORDER].request is None
    assert planned[Kind.EARN].state is State.DUE


def test_an_item_without_product_rejects_the_order() -> None:
    order = make_order(items=(make_item("1"), make_item("2", product_id=None)))

    post = effects(order)[Kind.ORDER]

    assert (post.state, post.reason) == (State.REJECTED, Reason.PRODUCT_ID_MISSING)


def test_an_unknown_currency_rejects_the_order_and_books_the_points() -> None:
    planned = effects(make_order(currency="XXX"))

    assert planned[Kind.ORDER].reason is Reason.UNKNOWN_CURRENCY
    assert planned[Kind.ORDER].state is State.REJECTED
    assert planned[Kind.EARN].state is State.DUE


def test_negative_points_are_rejected() -> None:
    earn = effects(make_order(card=make_card(-5)))[Kind.EARN]

    assert (earn.state, earn.reason, earn.request) == (
        State.REJECTED,
        Reason.NEGATIVE_POINTS,
        None,
    )


@pytest.mark.parametrize(
    ("points", "state"),
    [(999, State.DUE), (1000, State.DUE), (1001, State.HELD), (2**53, State.HELD)],
)
def test_points_above_the_limit_wait_for_a_person(points: int, state: State) -> None:
    earn = effects(make_order(card=make_card(points)), replace(POLICY, points_limit=1000))[
        Kind.EARN
    ]

    assert earn.state is state
    assert earn.reason == (Reason.POINTS_OVER_LIMIT if state is State.HELD else None)
    assert earn.request is not None  # a person may release it
    assert earn.points == points


RULE = replace(POLICY, points_factor=Decimal(3))


@pytest.mark.parametrize(
    ("points", "state"),
    [(175, State.HELD), (176, State.DUE), (177, State.DUE), (178, State.DUE), (179, State.HELD)],
)
def test_points_off_the_rule_wait_for_a_person(points: int, state: State) -> None:
    earn = effects(make_order(card=make_card(points)), RULE)[Kind.EARN]

    assert earn.state is state
    assert earn.reason == (Reason.POINTS_IMPLAUSIBLE if state is State.HELD else None)


def test_the_rule_rounds_as_it_is_set_to() -> None:
    policy = replace(RULE, points_rounding=Rounding.UP, points_tolerance=0)

    assert effects(make_order(card=make_card(180)), policy)[Kind.EARN].state is State.DUE
    assert effects(make_order(card=make_card(177)), policy)[Kind.EARN].state is State.HELD


def test_without_a_base_the_rule_cannot_judge() -> None:
    order = make_order(card=make_card(5), points_base_minor=None)

    assert effects(order, RULE)[Kind.EARN].state is State.DUE


def test_points_in_an_unknown_currency_cannot_be_plausible() -> None:
    earn = effects(make_order(currency="XXX"), RULE)[Kind.EARN]

    assert (earn.state, earn.reason) == (State.HELD, Reason.POINTS_IMPLAUSIBLE)


@pytest.mark.parametrize("points_from", [PointsFrom.COLLECT, PointsFrom.RULES])
@pytest.mark.parametrize(("points", "counted"), [(177, 177), (0, 0), (None, 0), (-5, 0)])
def test_points_that_another_way_books_are_only_counted(
    points_from: PointsFrom, points: int | None, counted: int
) -> None:
    """Two ways at once would book twice. A counter cannot take a negative number."""
    planned = plan(make_order(card=make_card(points)), replace(POLICY, points_from=points_from))

    assert [effect.kind for effect in planned.effects] == [Kind.ORDER]
    assert planned.points_elsewhere == counted
    assert planned.facts is not None and planned.facts.points_from is points_from


@pytest.mark.parametrize(
    ("contact_key", "value"),
    [
        (ContactKey.EMAIL, "ada@example.com"),
        (ContactKey.CELLPHONE, "+33600000000"),
        (ContactKey.CUSTOMER_ID, "48213"),
        (ContactKey.REFERENCE_KEY, "crm-1"),
    ],
)
def test_the_contact_is_named_by_the_key_of_the_universe(
    contact_key: ContactKey, value: str
) -> None:
    assert contact_id(make_order(), contact_key) == value
    nobody = make_customer(email=None, cellphone=None, customer_id=None, reference_key=None)
    assert contact_id(make_order(customer=nobody), contact_key) is None
    assert contact_id(make_order(customer=None), contact_key) is None
    blank = make_customer(email="", cellphone="", customer_id="", reference_key="")
    assert contact_id(make_order(customer=blank), contact_key) is None


def test_a_repeat_in_another_order_of_items_is_the_same() -> None:
    one, two = make_item("1"), make_item("2", product_id="p2", amount_minor=1)

    first = effects(make_order(items=(one, two)))
    again = effects(make_order(items=(two, one)))

    assert first[Kind.ORDER].fingerprint == again[Kind.ORDER].fingerprint


@pytest.mark.parametrize(
    "noise",
    [
        {"confirmed_at": make_order().confirmed_at.replace(year=2027)},
        {"language": "en_GB"},
        {"customer": make_customer(email="new@example.com", first_name="Grace")},
        {"items": (make_item(product_name="Renamed", tax_minor=1, discount_minor=1),)},
        {"points_base_minor": None},
        {"card": replace(make_card(), provider="other")},
    ],
)
def test_what_varies_between_deliveries_changes_no_fingerprint(noise: dict[str, Any]) -> None:
    first, again = effects(make_order()), effects(make_order(**noise))

    for kind in first:
        assert first[kind].fingerprint == again[kind].fingerprint


@pytest.mark.parametrize(
    ("change", "contradicting"),
    [
        ({"total_minor": 1}, {Kind.ORDER}),
        ({"tax_minor": 1}, {Kind.ORDER}),
        ({"shipping_minor": 1}, {Kind.ORDER}),
        ({"discount_minor": 1}, {Kind.ORDER}),
        ({"currency": "USD"}, {Kind.ORDER}),
        ({"items": (make_item(amount_minor=1),)}, {Kind.ORDER}),
        ({"items": (make_item("2"),)}, {Kind.ORDER}),
        ({"items": (make_item(product_id="p2"),)}, {Kind.ORDER}),
        ({"items": ()}, {Kind.ORDER}),
        ({"card": make_card(178)}, {Kind.ORDER, Kind.EARN}),
        ({"card": make_card(number="1")}, {Kind.ORDER, Kind.EARN}),
    ],
)
def test_every_fact_of_the_source_changes_the_fingerprint(
    change: dict[str, Any], contradicting: set[Kind]
) -> None:
    first, other = effects(make_order()), effects(make_order(**change))

    assert {
        kind for kind in first if first[kind].fingerprint != other[kind].fingerprint
    } == contradicting


SAFE_INTS = st.integers(-(2**53), 2**53)
IDS = st.from_regex(r"[0-9A-Za-z]{1,8}", fullmatch=True)
TEXTS = st.none() | st.text(st.characters(codec="utf-8"), max_size=5)
ITEMS = st.builds(
    make_item,
    IDS,
    product_id=st.none() | IDS,
    product_name=TEXTS,
    amount_minor=SAFE_INTS,
    tax_minor=SAFE_INTS,
    discount_minor=SAFE_INTS,
)
CUSTOMERS = st.builds(
    make_customer,
    customer_id=TEXTS,
    reference_key=TEXTS,
    email=TEXTS,
    cellphone=TEXTS,
    is_guest=st.booleans(),
    is_test=st.booleans(),
)
ORDERS = st.builds(
    make_order,
    order_id=IDS,
    app_id=st.sampled_from([None, "1042", "9"]),
    currency=st.sampled_from(["EUR", "JPY", "KWD", "XXX", ""]),
    total_minor=SAFE_INTS,
    points_base_minor=st.none() | SAFE_INTS,
    items=st.lists(ITEMS, max_size=3).map(tuple),
    card=st.none() | st.builds(make_card, st.none() | SAFE_INTS),
    customer=st.none() | CUSTOMERS,
)
POLICIES = st.builds(
    PlanningPolicy,
    tenant=st.just("main"),
    shop=st.just(SHOP),
    shops=st.sampled_from([{}, {"1042": LYON}]),
    contact_key=st.sampled_from(ContactKey),
    points_from=st.sampled_from(PointsFrom),
    points_limit=st.integers(0, 10**6),
    points_factor=st.none() | st.decimals(min_value="0.001", max_value=1000, places=3),
    points_tolerance=st.integers(0, 5),
    points_rounding=st.sampled_from(Rounding),
    guest_orders=st.sampled_from(GuestOrders),
)


@given(order=ORDERS, policy=POLICIES)
def test_any_order_has_exactly_one_fate(order: OrderConfirmed, policy: PlanningPolicy) -> None:
    planned = plan(order, policy)

    fates = (bool(planned.effects), planned.ignored is not None, planned.dead_letter is not None)
    assert sum(fates) == 1
    assert (planned.facts is not None) == bool(planned.effects)
    assert planned.points_elsewhere >= 0
    earns = [effect for effect in planned.effects if effect.kind is Kind.EARN]
    assert len(earns) <= 1
    assert [effect.kind for effect in planned.effects].count(Kind.ORDER) == len(planned.effects) - (
        len(earns)
    )
    if earns:
        assert policy.points_from is PointsFrom.WEBHOOK and not planned.points_elsewhere
    for effect in planned.effects:
        assert effect.state in (State.DUE, State.HELD, State.REJECTED)
        assert (effect.request is None) == (effect.state is State.REJECTED)
        assert (effect.reason is None) == (effect.state is State.DUE)
        if effect.kind is Kind.EARN and effect.state is State.DUE:
            assert 0 < effect.points <= policy.points_limit


@given(order=ORDERS, policy=POLICIES)
def test_the_same_event_again_has_the_same_plan(
    order: OrderConfirmed, policy: PlanningPolicy
) -> None:
    """P2: a repeat is told by equal keys and fingerprints, whatever was planned."""
    assert plan(order, policy) == plan(order, policy)


@given(order=ORDERS, policy=POLICIES, other=POLICIES)
def test_settings_change_no_fingerprint(
    order: OrderConfirmed, policy: PlanningPolicy, other: PlanningPolicy
) -> None:
    """A repeat that comes after a change of settings contradicts nothing."""
    first = {effect.key: effect.fingerprint for effect in plan(order, policy).effects}
    again = {effect.key: effect.fingerprint for effect in plan(order, other).effects}

    assert all(again[key] == first[key] for key in first.keys() & again.keys())


def test_an_unexpected_error_of_the_renderer_is_not_swallowed() -> None:
    class Broken(Renderer):
        def order(self, *_: Any, **__: Any) -> RenderedRequest:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        plan_order_confirmed(make_order(), POLICY, Broken())
    with pytest.raises(UnknownCurrencyError):
        Renderer().order(make_order(currency="XXX"), contact_id="c", shop=SHOP)
