"""Baskets become orders, with or without points, and what befalls them is drawn beforehand."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

from service.sandbox.baskets import generate_baskets
from service.sandbox.checkout_plan import CheckoutPlan, Intent, draw_intent
from service.sandbox.scayle import Shares, generate_orders
from service.sandbox.scayle_money import PaidByPoints, earnable_points

BASKETS = list(generate_baskets(7, 60, customers=20))
CERTAIN = CheckoutPlan(duplicates=1.0, refunds=1.0, early_refunds=1.0)


def test_order_paid_with_points_is_that_order_less_their_worth() -> None:
    for basket in BASKETS:
        card = basket.customer.card
        plain = basket.confirmed(card)["payload"]
        paid = basket.confirmed(card, PaidByPoints(points=90, reduction=45))["payload"]
        assert plain["items"] == paid["items"]
        assert "membershipDiscount" not in plain
        discount = {"membershipCardId": basket.customer.number, "pointsUsed": 90, "tax": 8}
        assert paid["membershipDiscount"] == {**discount, "reductionValue": 45}
        assert plain["cost"]["costCapture"] - paid["cost"]["costCapture"] == 45
        goods = sum(item["price"]["withTax"] for item in plain["items"])
        assert basket.goods_total == goods
        assert paid["loyaltyCard"]["points"] == earnable_points(goods - 45, "EUR", Decimal(3))


def test_order_without_a_card_names_none() -> None:
    assert "loyaltyCard" not in BASKETS[0].confirmed(None)["payload"]


def test_shoppers_are_the_customers_of_the_orders_one_after_the_other() -> None:
    shares = Shares(without_card=0.3)
    orders = generate_orders(7, 300, customers=20, shares=shares)
    known = {order["payload"]["customer"]["email"]: order for order in orders}
    baskets = list(generate_baskets(7, 40, customers=20, shares=shares))
    assert [basket.customer for basket in baskets[:20]] == [each.customer for each in baskets[20:]]
    for basket in baskets:
        customer = basket.customer_document()
        there = known[customer["email"]]["payload"]["customer"]
        assert (customer["firstName"], customer["lastName"]) == (
            there["firstName"],
            there["lastName"],
        )


def test_same_seed_same_baskets() -> None:
    again = list(generate_baskets(7, 60, customers=20))
    assert [each.confirmed("1") for each in again] == [each.confirmed("1") for each in BASKETS]


@pytest.mark.parametrize("place", range(50))
def test_refunds_never_exceed_their_capture(place: int) -> None:
    intent = draw_intent(CERTAIN, place=place, order_id=1)
    assert 1 <= len(intent.refunds) <= 3
    assert sum(part.share for part in intent.refunds) <= 1
    keys = [intent.capture_key, *(part.key for part in intent.refunds)]
    assert all(re.fullmatch(r"[0-9a-f]{28}", key) for key in keys)
    assert len({part.key for part in intent.refunds}) == len(intent.refunds)
    assert intent.twice and intent.is_early and all(part.twice for part in intent.refunds)


def test_intents_vary_by_place_and_repeat_by_seed() -> None:
    def draw(seed: int) -> list[Intent]:
        plan = CheckoutPlan(seed=seed)
        return [draw_intent(plan, place=place, order_id=place) for place in range(50)]

    assert draw(1) == draw(1) != draw(2)
    refunds = [intent.refunds for intent in draw(1)]
    assert {bool(parts) for parts in refunds} == {True, False}
    keys = [(intent.capture_key, parts[0].key) for intent in draw(1) if (parts := intent.refunds)]
    assert {own == other for own, other in keys} == {True, False}


def test_other_orders_have_other_keys_and_the_same_twists() -> None:
    one, other = (draw_intent(CERTAIN, place=0, order_id=order_id) for order_id in (1, 2))
    assert one.capture_key != other.capture_key
    assert [part.share for part in one.refunds] == [part.share for part in other.refunds]
    assert not {part.key for part in one.refunds} & {part.key for part in other.refunds}
