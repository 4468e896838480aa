"""Rates: the settings' factor, else the programme's; amounts come back as whole points."""

from collections.abc import Mapping
from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.checkout.arrival import Arrival
from service.checkout.cards import Programs
from service.checkout.rates import AmountUnit, Rates
from service.domain.errors import NotFoundError, RetryableError
from service.domain.loyalty import LoyaltyProgram
from service.domain.money import exponent
from service.domain.ports import Operation
from tests.fakes.clock import START_MS, FakeClock
from tests.fakes.loyalty import FakeLoyalty
from tests.unit.builders import TRACEPARENT

PROGRAM = LoyaltyProgram(is_running=True, subscribes_automatically=False, points_to_amount="0.05")
ARRIVAL = Arrival("call-1", START_MS, TRACEPARENT, deadline_s=1000.0)
CURRENCIES = ("JPY", "EUR", "KWD", "CLF")  # of 0, 2, 3 and 4 decimals


def make_rates(
    splio: FakeLoyalty,
    rates: Mapping[str, str] = {},
    *,
    unit: AmountUnit | None = AmountUnit.MONEY,
) -> Rates:
    return Rates(
        splio,
        Programs({"club": 1, "other": 2}),
        {("club", currency): Decimal(rate) for currency, rate in rates.items()},
        unit=unit,
        clock=splio.clock,
    )


async def factor(rates: Rates, program: str = "club", currency: str = "EUR") -> Decimal:
    return await rates.factor(program, currency, ARRIVAL)


async def points(
    rates: Rates, amount: int, currency: str | None = "EUR", program: str = "club"
) -> int:
    return await rates.points(amount, program, currency, ARRIVAL)


async def test_factor_of_the_settings_goes_first(splio: FakeLoyalty) -> None:
    splio.programs["1"] = PROGRAM
    assert await factor(make_rates(splio, {"EUR": "0.01"})) == Decimal("0.01")
    assert splio.taken == 0


async def test_factor_of_the_programme_is_asked_for_once_in_five_minutes(
    splio: FakeLoyalty, clock: FakeClock
) -> None:
    splio.programs["1"] = PROGRAM
    rates = make_rates(splio, {"CHF": "0.01"})
    for _ in range(3):
        assert await factor(rates) == Decimal("0.05")
        assert await factor(rates, currency="USD") == Decimal("0.05")
    clock.advance(299)
    assert await factor(rates) == Decimal("0.05")
    assert splio.subjects(Operation.READ_PROGRAM) == ["1"]
    clock.advance(1)
    splio.programs["2"] = splio.programs["1"]
    assert await factor(rates, "other") == Decimal("0.05")
    assert await factor(rates) == Decimal("0.05")
    assert splio.subjects(Operation.READ_PROGRAM) == ["1", "2", "1"]
    assert splio.permits_out == 0


@pytest.mark.parametrize("program", [None, LoyaltyProgram(True, False, None)])
async def test_factor_that_nobody_knows_is_missing(
    splio: FakeLoyalty, program: LoyaltyProgram | None
) -> None:
    if program is not None:
        splio.programs["1"] = program
    rates = make_rates(splio)
    for _ in range(2):
        with pytest.raises(NotFoundError, match="no_rate"):
            await factor(rates)
    assert len(splio.asked) == 1


async def test_unknown_programme_is_told(splio: FakeLoyalty) -> None:
    for unit in (AmountUnit.MONEY, AmountUnit.POINTS):
        with pytest.raises(NotFoundError, match="unknown_program"):
            await factor(make_rates(splio, unit=unit), "nobody")
    with pytest.raises(NotFoundError, match="unknown_program"):
        await points(make_rates(splio), 100, program="nobody")
    assert splio.taken == 0


async def test_errors_of_splio_are_not_remembered(splio: FakeLoyalty) -> None:
    splio.programs["1"] = PROGRAM
    splio.errors[Operation.READ_PROGRAM].append(RetryableError("no_answer"))
    rates = make_rates(splio)
    with pytest.raises(RetryableError, match="no_answer"):
        await factor(rates)
    assert await factor(rates) == Decimal("0.05")


@pytest.mark.parametrize("amount", [1, 1234, 10**18])
async def test_amounts_in_points_are_taken_as_they_are(splio: FakeLoyalty, amount: int) -> None:
    assert await points(make_rates(splio, unit=AmountUnit.POINTS), amount, None) == amount
    assert splio.taken == 0


@pytest.mark.parametrize(
    ("amount", "currency", "expected"),
    [
        (1500, "EUR", 1500),  # 15.00 at 0.01
        (1234, "JPY", 617),  # at 2
        (3, "JPY", 2),  # 1.5 points
        (1, "JPY", 1),  # half a point
        (12345, "KWD", 1235),  # 12.345 at 0.01, which are 1234.5 points
        (4, "KWD", 1),  # 0.004 at 0.01: one point at least
    ],
)
async def test_money_is_rounded_to_the_nearest_point(
    splio: FakeLoyalty, amount: int, currency: str, expected: int
) -> None:
    rates = make_rates(splio, {"EUR": "0.01", "JPY": "2", "KWD": "0.01"})
    assert await points(rates, amount, currency) == expected


@given(
    spent=st.integers(1, 10**9),
    factor=st.decimals("0.0001", "1000", places=4),
    currency=st.sampled_from(CURRENCIES),
)
async def test_points_come_back_from_the_money_they_are_worth(
    spent: int, factor: Decimal, currency: str
) -> None:
    """Where a point is worth at least the smallest unit; the shop rounds to that, half up."""
    worth_minor = factor.scaleb(exponent(currency))
    assume(worth_minor >= 1)
    amount_minor = int((spent * worth_minor + Decimal("0.5")) // 1)
    rates = make_rates(FakeLoyalty(FakeClock()), {currency: str(factor)})
    assert await points(rates, amount_minor, currency) == spent


async def test_unit_that_is_not_set_is_for_a_person(splio: FakeLoyalty) -> None:
    with pytest.raises(RetryableError, match="amount_unit_not_set") as caught:
        await points(make_rates(splio, {"EUR": "0.01"}, unit=None), 100)
    assert caught.value.retry_after_s == 60


async def test_money_without_a_rate_is_for_a_person(splio: FakeLoyalty) -> None:
    with pytest.raises(RetryableError, match="no_rate") as caught:
        await points(make_rates(splio), 100)
    assert caught.value.retry_after_s == 60
    assert "RELAY_LOYALTY_RATES=club:EUR" in caught.value.detail


@pytest.mark.parametrize("currency", [None, "XXX"])
async def test_money_of_no_known_currency_is_for_a_person(
    splio: FakeLoyalty, currency: str | None
) -> None:
    splio.programs["1"] = PROGRAM
    with pytest.raises(RetryableError, match="unknown_currency") as caught:
        await points(make_rates(splio), 100, currency)
    assert caught.value.retry_after_s == 60
