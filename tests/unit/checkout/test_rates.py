"""Rates: the settings' factor, else the programme's; amounts come back as whole points."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.checkout.arrival import Arrival
from service.checkout.cards import Programs
from service.checkout.rates import AmountUnit, Rates
from service.domain.errors import LanePausedError, NotFoundError, RelayError, RetryableError
from service.domain.loyalty import LoyaltyProgram
from service.domain.money import exponent
from service.domain.ports import Operation
from tests.fakes.clock import START_MS, FakeClock
from tests.fakes.loyalty import FakeLoyalty
from tests.fakes.waiting import until
from tests.unit.builders import TRACEPARENT

PROGRAM = LoyaltyProgram(is_running=True, subscribes_automatically=False, points_to_amount="0.05")
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


def arrival(deadline_s: float) -> Arrival:
    return Arrival("call-1", START_MS, TRACEPARENT, deadline_s)


async def factor(rates: Rates, program: str = "club", currency: str = "EUR") -> Decimal:
    return await rates.factor(program, currency, arrival(1000.0))


async def points(
    rates: Rates,
    amount: int,
    currency: str | None = "EUR",
    program: str = "club",
    *,
    deadline_s: float = 1000.0,
) -> int:
    return await rates.points(amount, program, currency, arrival(deadline_s))


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


@pytest.mark.parametrize("error", [RetryableError("no_answer"), LanePausedError("unknown_refusal")])
async def test_known_factor_is_answered_while_splio_is_away(
    splio: FakeLoyalty, clock: FakeClock, error: RelayError
) -> None:
    """Captures are taken all the same, and only one in a while waits for Splio."""
    splio.programs["1"] = PROGRAM
    rates = make_rates(splio)
    await factor(rates)
    clock.advance(300)
    splio.errors[Operation.READ_PROGRAM].append(error)
    for _ in range(3):
        assert await points(rates, 100) == 20
    assert len(splio.asked) == 2
    splio.programs["1"] = replace(PROGRAM, points_to_amount="0.1")
    clock.advance(10)
    assert await points(rates, 100) == 10
    assert splio.permits_out == 0


@pytest.mark.parametrize("permits", [0, None])
async def test_splio_that_hangs_leaves_the_known_factor_within_the_calls_time(
    splio: FakeLoyalty, clock: FakeClock, permits: int | None
) -> None:
    splio.programs["1"] = PROGRAM
    rates = make_rates(splio)
    await factor(rates)
    clock.advance(300)
    splio.permits_left = permits
    splio.go.clear()
    asking = [asyncio.create_task(points(rates, 100, deadline_s=302.75)) for _ in range(3)]
    await until(lambda: clock.sleeping)
    clock.advance(2.75)
    assert await asyncio.gather(*asking) == [20, 20, 20]
    assert splio.permits_out == splio.waiting == 0


async def test_many_callers_share_one_question(splio: FakeLoyalty) -> None:
    splio.programs["1"] = PROGRAM
    splio.go.clear()
    rates = make_rates(splio)
    asking = [asyncio.create_task(factor(rates)) for _ in range(20)]
    await until(lambda: splio.asked)
    asking.pop(0).cancel()
    splio.go.set()
    assert await asyncio.gather(*asking) == [Decimal("0.05")] * 19
    assert len(splio.asked) == 1


async def test_close_ends_a_question_under_way(splio: FakeLoyalty) -> None:
    splio.permits_left = 0
    rates = make_rates(splio)
    asking = asyncio.create_task(factor(rates))
    await until(lambda: splio.waiting)
    await rates.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert splio.waiting == 0


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
