"""Compares Splio's books, as the sandbox keeps them, with what SCAYLE was answered 200."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Final

_EXPONENTS: Final = {"EUR": 2, "JPY": 0, "KWD": 3}

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ExpectedOrder:
    """What an envelope asks of Splio; read from SCAYLE's bytes, not by the service's code."""

    order_id: str
    contact: str
    card: str | None
    points: int
    currency: str
    total: Decimal
    goods: Decimal
    pieces: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Account:
    """
    Differences, each a line for people; all empty when the account balances.

    `lost`: answered 200, neither in the books nor set aside. `twice`: booked more than once.
    `unexpected`: in the books, never sent. `different`: there once, with other content.
    """

    lost: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    different: tuple[str, ...] = ()

    def assert_balances(self) -> None:
        """Raises: AssertionError with every difference."""
        lines = [
            f"{each.name}: {line}" for each in fields(self) for line in getattr(self, each.name)
        ]
        assert not lines, "\n".join(lines)


def expected_order(envelope: Mapping[str, Any]) -> ExpectedOrder:
    """What must be at Splio for a generated `order-confirmed`."""
    payload = envelope["payload"]
    card = payload.get("loyaltyCard") or {}
    currency = payload["currencyCode"]
    goods = sum(item["price"]["withTax"] for item in payload["items"])
    return ExpectedOrder(
        order_id=str(payload["id"]),
        contact=payload["customer"]["email"].lower(),
        card=card.get("cardNumber"),
        points=card.get("points") or 0,
        currency=currency,
        total=Decimal(payload["cost"]["withTax"]).scaleb(-_EXPONENTS[currency]),
        goods=Decimal(goods).scaleb(-_EXPONENTS[currency]),
        pieces=Counter(item["variant"]["referenceKey"] for item in payload["items"]),
    )


def compare(
    envelopes: Sequence[Mapping[str, Any]],
    *,
    accepted: Collection[str],
    orders: Rows,
    credits_: Rows,
    tenant: str = "main",
    set_aside: Collection[tuple[str, str]] = (),
) -> Account:
    """
    The account of one run.

    Args:
        envelopes: all that were sent, whether or not they were answered.
        accepted: ids of the orders that were answered 200.
        orders, credits_: rows of the sandbox's books.
        set_aside: (order id, kind) of effects that a person was told about.
    """
    sent = {order.order_id: order for order in map(expected_order, envelopes)}
    contexts = {f"{tenant}:earn:{order_id}": order for order_id, order in sent.items()}
    posted = Counter(row["external_id"] for row in orders)
    booked = Counter(row["context"] for row in credits_)
    lost = []
    for order_id in accepted:
        if not posted[order_id] and (order_id, "order") not in set_aside:
            lost.append(f"order {order_id}")
        is_owed = sent[order_id].points and (order_id, "earn") not in set_aside
        if is_owed and not booked[f"{tenant}:earn:{order_id}"]:
            lost.append(f"points of {order_id}")
    different = [
        *(line for row in orders if (order := sent.get(row["external_id"])) is not None
          for line in _order_differences(order, row)),
        *(line for row in credits_ if (order := contexts.get(row["context"])) is not None
          for line in _credit_differences(order, row)),
    ]  # fmt: skip
    twice = [f"{name}: {times} times" for name, times in (posted + booked).items() if times > 1]
    unexpected = (posted.keys() - sent.keys()) | (booked.keys() - contexts.keys())
    return Account(
        lost=tuple(sorted(lost)),
        twice=tuple(sorted(twice)),
        unexpected=tuple(sorted(unexpected)),
        different=tuple(sorted(different)),
    )


def points_by_card(credits_: Rows) -> Mapping[str, int]:
    """The sum of points that the books hold, by card."""
    sums: Counter[str] = Counter()
    for row in credits_:
        sums[row["card_code"]] += row["nq_points"] + row["q_points"]
    return sums


def earned_by_card(envelopes: Sequence[Mapping[str, Any]]) -> Mapping[str, int]:
    """The sum of points that SCAYLE named, by card; each order once."""
    sums: Counter[str] = Counter()
    for order in {order.order_id: order for order in map(expected_order, envelopes)}.values():
        if order.card is not None and order.points:
            sums[order.card] += order.points
    return sums


def _order_differences(expected: ExpectedOrder, row: Mapping[str, Any]) -> Iterator[str]:
    pieces: Counter[str] = Counter()
    goods = Decimal(0)
    for line in row["products"]:
        pieces[line["product_id"]] += line["quantity"]
        goods += Decimal(str(line["total_line_amount"]))
    for name, wanted, found in (
        ("contact", expected.contact, row["contact_id"]),
        ("card", expected.card, row["card_code"]),
        ("currency", expected.currency, row["currency"]),
        ("total", expected.total, Decimal(str(row["total_price"]))),
        ("sum of the lines", expected.goods, goods),
        ("pieces", expected.pieces, pieces),
        ("completed", True, row["completed"]),
    ):
        if wanted != found:
            yield f"order {expected.order_id}: {name} is {found!r}, sent was {wanted!r}"


def _credit_differences(expected: ExpectedOrder, row: Mapping[str, Any]) -> Iterator[str]:
    for name, wanted, found in (
        ("card", expected.card, row["card_code"]),
        ("points", expected.points, row["nq_points"] + row["q_points"]),
    ):
        if wanted != found:
            yield f"points of {expected.order_id}: {name} is {found!r}, sent was {wanted!r}"
