"""Baskets: orders that a shopper may still pay with points, in whole or in part."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from service.sandbox.scayle import (
    DEFAULT_START,
    Shares,
    draw_customer,
    draw_product,
    order_confirmed,
)
from service.sandbox.scayle_documents import Customer, customer_document
from service.sandbox.scayle_money import PaidByPoints


@dataclass(frozen=True, slots=True)
class Basket:
    """
    An order before it is confirmed, in the hands of a shopper who may still pay with points.

    Attributes:
        customer: who buys; `card` is to be had by registering where not `has_card`.
        goods_total: after reductions and before fees, in minor units of `currency`: what points
            can pay of it.
        share: from 0 to 1, drawn: how much of what could be spent this shopper spends.
    """

    order_id: int
    customer: Customer
    currency: str
    goods_total: int
    share: float
    _at: datetime
    _order: Callable[[Customer, PaidByPoints | None], dict[str, Any]]

    def customer_document(self) -> dict[str, Any]:
        """The customer as SCAYLE describes them."""
        return customer_document(self.customer, self._at, guest=False, text_ids=False)

    def confirmed(self, card: str | None, paid: PaidByPoints | None = None) -> dict[str, Any]:
        """The envelope of the confirmed order; the same arguments give the same one."""
        return self._order(replace(self.customer, card=card or "", has_card=card is not None), paid)


def generate_baskets(
    seed: int,
    count: int,
    *,
    first_order_id: int = 5_000_001,
    customers: int = 200,
    products: int = 60,
    currency: str = "EUR",
    factor: Decimal = Decimal(3),
    app_id: int = 1042,
    provider: str = "splio_club",
    start: datetime = DEFAULT_START,
    seconds_between: float = 7.0,
    shares: Shares | None = None,
) -> Iterator[Basket]:
    """
    `count` baskets, arguments as of `generate_orders`; the same give the same.

    The customers are those of `generate_orders` by the same seed and shares, one after the
    other, none of them a guest.
    """
    draw = random.Random(seed)
    mixture = Shares() if shares is None else shares
    people = [draw_customer(draw, number, mixture) for number in range(customers)]
    goods = [draw_product(draw, number) for number in range(products)]
    for place in range(count):
        customer = people[place % customers]
        order = partial(
            _order_again,
            draw.getrandbits(64),
            replace(mixture, guests=0, points_spent=0),
            order_id=first_order_id + place,
            products=[draw.choice(goods) for _ in range(draw.choice((1, 1, 2, 2, 2, 3, 4)))],
            currency=currency,
            factor=factor,
            app_id=app_id,
            provider=provider,
            at=start + timedelta(seconds=place * seconds_between),
        )
        items = order(customer, None)["payload"]["items"]
        yield Basket(
            order_id=first_order_id + place,
            customer=customer,
            currency=currency,
            goods_total=sum(item["price"]["withTax"] for item in items),
            share=draw.random(),
            _at=start,
            _order=order,
        )


def _order_again(
    seed: int, shares: Shares, customer: Customer, paid: PaidByPoints | None, **facts: Any
) -> dict[str, Any]:
    """The order of these facts, each time the same but for the customer's card and points."""
    return order_confirmed(random.Random(seed), shares, customer=customer, paid=paid, **facts)
