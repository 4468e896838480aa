"""`points` explains SCAYLE's rule."""

import pytest

from tests.unit.cli.commands import objects, run


@pytest.mark.parametrize(("rounding", "points"), [("up", 180), ("down", 177)])
def test_scayles_own_example(rounding: str, points: int) -> None:
    arguments = ("points", "--total", "59.95", "--factor", "3", "--rounding", rounding)
    result = run(*arguments)
    assert result.exit_code == 0
    assert f"points: {points}\n" in result.stdout
    assert objects(run(*arguments, "--json")) == [
        {
            "total": "59.95",
            "currency": "EUR",
            "factor": "3",
            "rounding": rounding,
            "units": points // 3,
            "product": str(points),
            "points": points,
        }
    ]


def test_a_fractional_factor_is_rounded_twice_and_says_so() -> None:
    result = run("points", "--total", "59.95", "--factor", "1.5", "--rounding", "up")
    assert "3. times the factor    60 × 1.5 = 90.0\n" in result.stdout
    result = run("points", "--total", "58.95", "--factor", "1.5", "--rounding", "up")
    assert "4. whole points        89, rounded up\n" in result.stdout
    assert "not documented" in result.stdout


def test_nothing_is_earned_for_a_total_below_zero() -> None:
    result = run("points", "--total", "-5", "--factor", "3")
    assert result.exit_code == 0
    assert "points: 0\n" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--total", "59.955", "--factor", "3"),
        ("--total", "59.5", "--factor", "3", "--currency", "JPY"),
        ("--total", "59", "--factor", "3", "--currency", "ZZZ"),
        ("--total", "59", "--factor", "0"),
        ("--total", "59", "--factor", "-1"),
        ("--total", "NaN", "--factor", "3"),
        ("--total", "1e9", "--factor", "3"),
        ("--total", "59", "--factor", "3", "--rounding", "sideways"),
        ("--total", "59"),
    ],
)
def test_what_is_no_amount_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    assert run("points", *arguments).exit_code == 2


def test_the_currencys_decimals_are_those_of_the_total() -> None:
    result = run("points", "--total", "1.234", "--factor", "1", "--currency", "kwd")
    assert "1.234 KWD" in result.stdout
