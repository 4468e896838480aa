"""Exact money: minor units in, decimal major units out, by the currency's exponent."""

from decimal import Decimal
from typing import Final

# ISO 4217 (list one, amendment 177): currencies whose exponent is not 2.
_EXPONENTS: Final = {
    **dict.fromkeys(
        (
            *("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX"),
            *("UYI", "VND", "VUV", "XAF", "XOF", "XPF"),
        ),
        0,
    ),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}
_TWO_DIGITS: Final = frozenset(
    (
        "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP "
        "BYN BZD CAD CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD "
        "FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD "
        "KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD "
        "NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP "
        "SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED "
        "VES WST XCD XCG YER ZAR ZMW ZWG"
    ).split()
)


class UnknownCurrencyError(ValueError):
    """Make a dead letter of it: the currency's number of decimals is not known."""


def exponent(currency: str) -> int:
    """
    Number of decimals of `currency` (ISO 4217 code, upper case): JPY 0, EUR 2, KWD 3.

    Raises: UnknownCurrencyError for a code that ISO 4217 does not list.
    """
    if currency in _TWO_DIGITS:
        return 2
    try:
        return _EXPONENTS[currency]
    except KeyError:
        raise UnknownCurrencyError(currency) from None


def to_major(amount_minor: int, currency: str) -> Decimal:
    """`amount_minor` in major units, exact: 6485 EUR is Decimal("64.85")."""
    # From text, as arithmetic would round to the 28 digits of the decimal context.
    return Decimal(json_number(amount_minor, currency))


def json_number(amount_minor: int, currency: str) -> str:
    """
    `amount_minor` in major units as the text of a JSON number, never through a binary float.

    6485 EUR is `64.85`, 2000 EUR is `20.00`, 500 JPY is `500`, -1 KWD is `-0.001`.
    """
    digits = exponent(currency)
    if not digits:
        return str(amount_minor)
    sign = "-" if amount_minor < 0 else ""
    whole, fraction = divmod(abs(amount_minor), 10**digits)
    return f"{sign}{whole}.{fraction:0{digits}d}"
