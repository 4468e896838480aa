"""The amounts of a made-up order: items, reductions, fees and taxes that agree exactly."""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal
from typing import Any

# Digits after the point, ISO 4217, with the range of an item's price in minor units.
CURRENCIES = {
    "EUR": (2, 495, 19_995),
    "JPY": (0, 700, 32_000),
    "KWD": (3, 1_250, 65_000),
}
VAT = Decimal("0.2")


@dataclass(frozen=True, slots=True)
class Product:
    """A product of the pool."""

    number: int
    name: str
    sku: str


@dataclass(frozen=True, slots=True)
class PaidByPoints:
    """What of an order was paid with points: `reduction` is their worth in minor units."""

    points: int
    reduction: int


@dataclass(slots=True)
class Item:
    """One piece in an order; `price` is with tax, after its reductions, in minor units."""

    product: Product
    undiscounted: int
    reductions: list[dict[str, Any]]
    price: int


def earnable_points(total_minor: int, currency: str, factor: Decimal) -> int:
    """
    Points for a total after reductions and before fees.

    The total is cut to whole major units first, then multiplied: SCAYLE's table (59.95 at
    factor 3 gives 177). A fraction of the product is dropped, which SCAYLE does not document.
    """
    whole = total_minor // 10 ** CURRENCIES[currency][0]
    return int((factor * whole).to_integral_value(ROUND_FLOOR))


def contained_tax(with_tax: int) -> int:
    """The tax contained in an amount, rounded half up to a whole minor unit."""
    return int((with_tax * VAT / (1 + VAT)).to_integral_value(ROUND_HALF_UP))


def draw_item(draw: random.Random, product: Product, currency: str, sales: float) -> Item:
    """One piece at a price of its currency's range, reduced in a share `sales` of cases."""
    _, cheapest, dearest = CURRENCIES[currency]
    undiscounted = draw.randrange(cheapest, dearest)
    reductions, price = [], undiscounted
    if draw.random() < sales:
        percent = draw.choice((10, 20, 30))
        taken = undiscounted * percent // 100
        reductions.append(_reduction("sale", "relative", taken, percent / 100))
        price -= taken
    return Item(product, undiscounted, reductions, price)


def apply_voucher(items: list[Item], percent: int, code: str) -> None:
    """An absolute voucher, spread over the items so that the parts add up exactly."""
    total = sum(item.price for item in items)
    value = total * percent // 100
    before = given = 0
    for item in items:
        before += item.price
        part = value * before // total - given
        given += part
        if part:
            share = round(part / item.price, 4)
            item.reductions.append(_reduction("voucher", "absolute", part, share, code))
            item.price -= part


def cost_document(
    items: list[Item], rows: list[dict[str, Any]], *, goods_total: int, fee: int, spent: int
) -> dict[str, Any]:
    """`payload.cost`; `spent` is what was paid with points, `rows` the items as documents."""
    fee_tax = contained_tax(fee)
    tax = fee_tax + sum(row["price"]["tax"]["vat"]["amount"] for row in rows)
    total = goods_total + fee
    fees = {
        "amount": {"withTax": fee, "withoutTax": fee - fee_tax},
        "category": "delivery",
        "key": "base_shipping_service_cost",
        "option": "deliveryCosts",
        "tax": {"vat": {"amount": fee_tax, "rate": float(VAT)}},
    }
    return {
        "appliedFees": [fees] if fee else [],
        "appliedReductions": _summed_reductions(items),
        "tax": {"vat": {"amount": tax}},
        "withTax": total,
        "withoutTax": total - tax,
        "withTaxWithMembershipDiscountWithoutServiceCosts": goods_total - spent,
        "withoutTaxWithMembershipDiscount": total - tax - (spent - contained_tax(spent)),
        "costCapture": total - spent,
        "itemGroups": None,
    }


def _reduction(
    category: str, kind: str, amount: int, share: float, code: str | None = None
) -> dict[str, Any]:
    reduction: dict[str, Any] = {
        "id": f"{9000 + len(category)}",
        "amount": {"absoluteWithTax": amount, "relative": share},
        "category": category,
        "type": kind,
    }
    if code is not None:
        reduction["code"] = code
    return reduction


def _summed_reductions(items: list[Item]) -> list[dict[str, Any]]:
    undiscounted = sum(item.undiscounted for item in items)
    sums: dict[str, dict[str, Any]] = {}
    for reduction in (each for item in items for each in item.reductions):
        name, amount = reduction["category"], reduction["amount"]["absoluteWithTax"]
        if name in sums:
            amount += sums[name]["amount"]["absoluteWithTax"]
        share = round(amount / undiscounted, 4)
        sums[name] = {**reduction, "amount": {"absoluteWithTax": amount, "relative": share}}
    return list(sums.values())
