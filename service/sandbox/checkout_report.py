"""What became of checkouts, as their calls were answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.sandbox.deliveries import AcceptedOrder


@dataclass(frozen=True, slots=True)
class Spent:
    """
    Points of one order, as the calls were answered.

    Attributes:
        captured, given_back: answered with 200.
        refused: of the captures and refunds that were answered with a final no.
    """

    order_id: str
    card: str
    captured: int
    given_back: int
    refused: int


@dataclass(frozen=True, slots=True)
class CheckoutProgress:
    """Where a run is: checkouts settled, of them paid with points."""

    settled: int
    paid_with_points: int


@dataclass(frozen=True, slots=True)
class CheckoutReport:
    """
    What was asked and how it was answered.

    Attributes:
        calls: operation to status to requests, repeats included; `lost` where there was none.
        webhooks: the same of the webhooks, by status.
        orders: the confirmed orders that were answered 200.
        deliveries: per order, how often it was answered 200.
        spent: of each order that was paid with points.
        balances: balances seen.
        registered: cards that were got by registering.
        given_up: the calls and orders that never got a settled answer; they may have been taken
            all the same.
    """

    calls: Mapping[str, Mapping[str, int]]
    webhooks: Mapping[str, int]
    orders: Sequence[AcceptedOrder]
    deliveries: Mapping[str, int]
    spent: Sequence[Spent]
    balances: int
    registered: Sequence[str]
    given_up: Sequence[str]
    duration_s: float

    @property
    def captured(self) -> int:
        """Points captured."""
        return sum(each.captured for each in self.spent)

    @property
    def given_back(self) -> int:
        """Points of them given back."""
        return sum(each.given_back for each in self.spent)

    @property
    def refused(self) -> int:
        """Points of captures and refunds that were refused."""
        return sum(each.refused for each in self.spent)
