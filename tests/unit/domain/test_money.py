"""Money: exact in both directions, by the currency's exponent."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain import money
from service.domain.money import UnknownCurrencyError, exponent, json_number, to_major

CURRENCIES = st.sampled_from(["JPY", "EUR", "KWD", "CLF"])
# Far beyond what a float or the decimal context's 28 digits hold.
AMOUNTS = st.integers(-(10**40), 10**40)


@pytest.mark.parametrize(
    ("currency", "digits"),
    [("JPY", 0), ("KRW", 0), ("ISK", 0), ("EUR", 2), ("GBP", 2), ("KWD", 3), ("CLF", 4)],
)
def test_exponent_is_that_of_iso_4217(currency: str, digits: int) -> None:
    assert exponent(currency) == digits


@pytest.mark.parametrize("currency", ["", "eur", "EURO", "XXX", "€", "EUR "])
def test_unknown_currency_is_refused_by_all(currency: str) -> None:
    with pytest.raises(UnknownCurrencyError):
        exponent(currency)
    with pytest.raises(UnknownCurrencyError):
        to_major(1, currency)
    with pytest.raises(UnknownCurrencyError):
        json_number(1, currency)


def test_no_currency_has_two_exponents() -> None:
    assert not money._TWO_DIGITS & set(money._EXPONENTS)
    assert all(
        len(code) == 3 and code.isupper() for code in money._TWO_DIGITS | set(money._EXPONENTS)
    )


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (6485, "EUR", "64.85"),
        (2000, "EUR", "20.00"),
        (5, "EUR", "0.05"),
        (-5, "EUR", "-0.05"),
        (0, "EUR", "0.00"),
        (500, "JPY", "500"),
        (0, "JPY", "0"),
        (-1, "KWD", "-0.001"),
        (1234567, "KWD", "1234.567"),
        (10001, "CLF", "1.0001"),
        (9007199254740993, "EUR", "90071992547409.93"),
    ],
)
def test_json_number_shows_all_decimals(minor: int, currency: str, text: str) -> None:
    assert json_number(minor, currency) == text


@given(minor=AMOUNTS, currency=CURRENCIES)
def test_json_number_is_json_and_exactly_the_amount(minor: int, currency: str) -> None:
    text = json_number(minor, currency)

    parsed = json.loads(text, parse_float=Decimal, parse_int=Decimal)

    assert parsed.as_tuple().exponent == -exponent(currency)
    assert int(text.replace(".", "")) == minor


@given(minor=AMOUNTS, currency=CURRENCIES)
def test_major_units_are_exact(minor: int, currency: str) -> None:
    major = to_major(minor, currency)

    assert major.as_integer_ratio() == Decimal(json_number(minor, currency)).as_integer_ratio()
    sign, digits, shift = major.as_tuple()
    assert int("".join(map(str, digits))) * (-1 if sign else 1) == minor
    assert shift == -exponent(currency)
