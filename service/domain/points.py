"""SCAYLE's rule of earnable points, to judge whether delivered points are plausible."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from enum import StrEnum


class Rounding(StrEnum):
    """How the programme rounds, as set in SCAYLE's Panel."""

    UP = "up"
    DOWN = "down"


def earnable_points(total: Decimal, *, factor: Decimal, rounding: Rounding) -> int:
    """
    Points that SCAYLE grants for `total`, never negative.

    Args:
        total: order total in major units after voucher, point and gift card reductions and
            before fees.
        factor: points per whole major unit.
        rounding: of the total to whole units, then of the product to whole points.

    SCAYLE's worked example only fits when the total is rounded first: 59.95 at factor 3 gives
    180 (up) and 177 (down). With a fractional factor a second rounding must exist; its rule is
    not documented, so the same direction is taken and a tolerance covers the rest.
    Source: SCAYLE "Loyalty Program", earnable points.
    """
    mode = ROUND_CEILING if rounding is Rounding.UP else ROUND_FLOOR
    units = total.to_integral_value(rounding=mode)
    points = int((units * factor).to_integral_value(rounding=mode))
    return max(points, 0)


def is_plausible(points: int, expected: int, *, tolerance: int) -> bool:
    """Whether delivered `points` are within `tolerance` points of the rule's `expected`."""
    return abs(points - expected) <= tolerance
