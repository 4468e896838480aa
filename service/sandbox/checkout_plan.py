"""
How checkouts go, and what befalls each: drawn before it begins, so that answers change nothing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

_KEY_BITS = 112  # a transactionKey has 28 hex characters
_MOST_REFUNDS = 3
_WHOLE_SHARE = 0.25  # of the orders of which points come back, those that are sent back whole
_SAME_KEY_SHARE = 0.5  # SCAYLE's examples leave open whether a refund has its capture's key


@dataclass(frozen=True, slots=True)
class CheckoutPlan:
    """
    How checkouts go.

    Attributes:
        currency: of the points-rate and so of every basket.
        rate: checkouts begun per second; None is as fast as they end.
        duplicates: share of webhooks, captures and refunds sent a second time; half of these
            calls at the same time as the first.
        refunds: share of orders paid with points of which some are given back, by up to three
            refunds, within `refund_within_s` of the capture.
        early_refunds: share of these whose first refund comes before the capture.
        attempts: as of `DeliveryPlan`, of calls as well.
        balance_every_s: between two questions for a balance; at SCAYLE a minute.
        points_within_s: how long a shopper who has earned points waits until they show.
        rate_every_s: between two questions for the points-rate; at SCAYLE minutes.
    """

    program: str = "splio_club"
    currency: str = "EUR"
    concurrency: int = 8
    rate: float | None = None
    duplicates: float = 0.0
    refunds: float = 0.6
    refund_within_s: float = 3.0
    early_refunds: float = 0.0
    seed: int = 0
    attempts: int = 20
    longest_wait_s: float = 2.0
    timeout_s: float = 10.0
    balance_every_s: float = 1.0
    points_within_s: float = 15.0
    rate_every_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Part:
    """A refund: its share of the points captured, its key, and the wait before it."""

    share: float
    key: str
    after_s: float
    twice: bool


@dataclass(frozen=True, slots=True)
class Intent:
    """
    Keys and twists of one order.

    Attributes:
        twice: the capture is sent a second time.
        at_once: second calls go out with the first ones.
        rounds: the shopper spends whole hundreds of points, given as many.
        is_early: the first refund goes before the capture.
        refunds: their shares add up to 1 at most; one of them may have the capture's key.
    """

    capture_key: str
    twice: bool
    at_once: bool
    rounds: bool
    is_early: bool
    refunds: tuple[Part, ...]
    delivery_seed: int


def draw_intent(plan: CheckoutPlan, *, place: int, order_id: int) -> Intent:
    """
    The intent of the checkout at `place`; the same arguments give the same one.

    Twists go by the place, keys by the order: other orders have other keys, whatever the seed.
    """
    draw = random.Random(f"{plan.seed}:{place}")
    keys = random.Random(f"{plan.seed}:{order_id}:keys")
    key = f"{keys.getrandbits(_KEY_BITS):028x}"
    twice = draw.random() < plan.duplicates
    at_once = draw.choice((True, False))
    rounds = draw.choice((True, False))
    is_early = draw.random() < plan.early_refunds
    refunds: list[Part] = []
    if draw.random() < plan.refunds:
        number = draw.randint(1, _MOST_REFUNDS)
        whole = draw.random() < _WHOLE_SHARE
        for refund in range(1 if whole else number):
            own = f"{keys.getrandbits(_KEY_BITS):028x}"
            has_same = refund == 0 and draw.random() < _SAME_KEY_SHARE
            refunds.append(
                Part(
                    share=1.0 if whole else draw.uniform(0.1, 0.9) / number,
                    key=key if has_same else own,
                    after_s=draw.uniform(0, plan.refund_within_s) / number,
                    twice=draw.random() < plan.duplicates,
                )
            )
    return Intent(
        capture_key=key,
        twice=twice,
        at_once=at_once,
        rounds=rounds,
        is_early=is_early,
        refunds=tuple(refunds),
        delivery_seed=draw.getrandbits(32),
    )
