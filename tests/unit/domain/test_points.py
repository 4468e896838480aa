"""SCAYLE's rule of earnable points, by its own worked example."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.points import Rounding, earnable_points, is_plausible

UP, DOWN = Rounding.UP, Rounding.DOWN


@pytest.mark.parametrize(
    ("total", "rounding", "points"),
    [
        ("59.95", UP, 180),
        ("59.95", DOWN, 177),
        ("49.95", UP, 150),
        ("49.95", DOWN, 147),
        ("39.95", UP, 120),
        ("39.95", DOWN, 117),
        ("24.95", UP, 75),
        ("24.95", DOWN, 72),
    ],
)
def test_worked_example_of_scayle_at_factor_3(total: str, rounding: Rounding, points: int) -> None:
    assert earnable_points(Decimal(total), factor=Decimal(3), rounding=rounding) == points


@pytest.mark.parametrize(
    ("total", "factor", "rounding", "points"),
    [
        ("100", "0.1", DOWN, 10),
        ("59.95", "0.1", DOWN, 5),  # 59 x 0.1 = 5.9
        ("59.95", "0.1", UP, 6),  # 60 x 0.1
        ("50.10", "0.1", UP, 6),  # 51 x 0.1 = 5.1
        ("0.99", "3", DOWN, 0),
        ("0.01", "3", UP, 3),
        ("59", "3", UP, 177),  # a whole total is not rounded
        ("500", "0.01", DOWN, 5),
    ],
)
def test_fractions_of_a_point_are_rounded_the_same_way(
    total: str, factor: str, rounding: Rounding, points: int
) -> None:
    assert earnable_points(Decimal(total), factor=Decimal(factor), rounding=rounding) == points


@pytest.mark.parametrize("total", ["0", "0.00", "-0.01", "-1", "-59.95"])
@pytest.mark.parametrize("rounding", Rounding)
def test_nothing_is_earned_for_nothing(total: str, rounding: Rounding) -> None:
    assert earnable_points(Decimal(total), factor=Decimal(3), rounding=rounding) == 0


CENTS = st.integers(-(10**9), 10**9)
FACTORS = st.decimals(min_value="0.001", max_value=1000, places=3)


@given(cents=CENTS, factor=FACTORS)
def test_rounding_up_never_gives_less(cents: int, factor: Decimal) -> None:
    total = Decimal(cents) / 100
    up = earnable_points(total, factor=factor, rounding=UP)
    down = earnable_points(total, factor=factor, rounding=DOWN)

    assert 0 <= down <= up <= down + factor + 2


@given(cents=CENTS, more=st.integers(0, 10**6), factor=FACTORS, rounding=st.sampled_from(Rounding))
def test_a_higher_total_never_earns_less(
    cents: int, more: int, factor: Decimal, rounding: Rounding
) -> None:
    less = earnable_points(Decimal(cents) / 100, factor=factor, rounding=rounding)

    assert (
        earnable_points(Decimal(cents + more) / 100, factor=factor, rounding=rounding) >= less >= 0
    )


@pytest.mark.parametrize(
    ("points", "tolerance", "plausible"),
    [(177, 0, True), (178, 0, False), (178, 1, True), (176, 1, True), (179, 1, False)],
)
def test_plausible_within_the_tolerance_on_both_sides(
    points: int, tolerance: int, plausible: bool
) -> None:
    assert is_plausible(points, 177, tolerance=tolerance) is plausible
