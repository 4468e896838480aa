"""The orders that the sandbox's SCAYLE makes up hold together."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest

from service.sandbox.checks import is_ean13
from service.sandbox.scayle import Shares, ean13_card, generate_orders, respell
from service.sandbox.scayle_money import CURRENCIES, contained_tax, earnable_points

ALL = list(generate_orders(7, 400, currencies=("EUR", "JPY", "KWD")))
PLAIN = Shares(guests=0, without_card=0, text_ids=0, meta=0, missing_fields=0)


@pytest.mark.parametrize(
    ("total", "points"),
    [(5995, 177), (4995, 147), (3995, 117), (2495, 72), (99, 0)],
)
def test_points_follow_the_documented_table(total: int, points: int) -> None:
    assert earnable_points(total, "EUR", Decimal(3)) == points


def test_points_in_other_currencies_and_factors() -> None:
    assert earnable_points(6500, "JPY", Decimal(3)) == 19500
    assert earnable_points(64_999, "KWD", Decimal(3)) == 192
    assert earnable_points(5995, "EUR", Decimal("0.1")) == 5


@pytest.mark.parametrize(("amount", "tax"), [(3995, 666), (2000, 333), (490, 82), (0, 0)])
def test_tax_contained_in_an_amount(amount: int, tax: int) -> None:
    assert contained_tax(amount) == tax


def test_amounts_agree() -> None:
    for envelope in ALL:
        assert_amounts_agree(envelope)


def assert_amounts_agree(envelope: dict[str, Any]) -> None:
    payload = envelope["payload"]
    cost, items, currency = payload["cost"], payload["items"], payload["currencyCode"]
    goods = sum(item["price"]["withTax"] for item in items)
    fees = sum(fee["amount"]["withTax"] for fee in cost["appliedFees"])
    taxes = [each["tax"]["vat"]["amount"] for each in cost["appliedFees"]]
    taxes += [item["price"]["tax"]["vat"]["amount"] for item in items]
    assert cost["withTax"] == goods + fees
    assert cost["withTax"] - cost["withoutTax"] == cost["tax"]["vat"]["amount"] == sum(taxes)
    reductions = 0
    for item in items:
        price = item["price"]
        taken = sum(each["amount"]["absoluteWithTax"] for each in price["appliedReductions"])
        assert price["undiscountedWithTax"] - taken == price["withTax"] >= 0
        assert item["currency"] == currency
        reductions += taken
    assert reductions == sum(
        each["amount"]["absoluteWithTax"] for each in cost["appliedReductions"]
    )
    spent = payload.get("membershipDiscount", {}).get("reductionValue", 0)
    assert cost["costCapture"] == cost["withTax"] - spent
    if "loyaltyCard" in payload:
        card = payload["loyaltyCard"]
        assert card["points"] == earnable_points(goods - spent, currency, Decimal(3))
        assert is_ean13(card["cardNumber"])
        assert not payload["customer"]["status"]["isGuestCustomer"]


def test_all_varieties_occur() -> None:
    payloads = [envelope["payload"] for envelope in ALL]
    assert {type(payload["id"]) for payload in payloads} == {int, str}
    assert {payload["currencyCode"] for payload in payloads} == set(CURRENCIES)
    assert {"locale" in envelope for envelope in ALL} == {True, False}
    for field in ("loyaltyCard", "membershipDiscount", "payment"):
        assert {field in payload for payload in payloads} == {True, False}
    assert any(payload.get("vouchers") for payload in payloads)
    assert {payload["customer"]["status"]["isGuestCustomer"] for payload in payloads} == {
        True,
        False,
    }
    assert all(payload["customer"]["email"].endswith("@example.com") for payload in payloads)


def test_ids_count_up_and_the_seed_decides_the_rest() -> None:
    assert [int(each["payload"]["id"]) for each in ALL[:3]] == [5_000_001, 5_000_002, 5_000_003]
    again = list(generate_orders(7, 400, currencies=("EUR", "JPY", "KWD")))
    assert again == ALL
    assert list(generate_orders(8, 10)) != list(generate_orders(7, 10))


def test_size_is_that_of_a_real_order() -> None:
    sizes = [len(orjson.dumps(each)) for each in generate_orders(1, 200)]
    assert 3200 < sum(sizes) / len(sizes) < 4600


def test_pools_bound_customers_and_products() -> None:
    orders = list(generate_orders(1, 300, customers=5, products=3, shares=PLAIN))
    cards = {each["payload"]["loyaltyCard"]["cardNumber"] for each in orders}
    skus = {item["variant"]["referenceKey"] for each in orders for item in each["payload"]["items"]}
    assert cards == {ean13_card(number) for number in range(5)}
    assert len(skus) == 3


def test_respelled_order_says_the_same() -> None:
    [envelope] = generate_orders(1, 1, shares=PLAIN)
    other = respell(envelope)
    assert other["payload"]["id"] == str(envelope["payload"]["id"])
    assert other["payload"]["updatedAt"] > envelope["payload"]["updatedAt"]
    assert other["payload"]["cost"] == envelope["payload"]["cost"]
    assert respell(other)["payload"]["id"] == envelope["payload"]["id"]


def test_unknown_currency_is_refused() -> None:
    with pytest.raises(ValueError, match="EUR, JPY, KWD"):
        next(generate_orders(1, 1, currencies=("XXX",)))
