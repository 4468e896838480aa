"""`points`: SCAYLE's rule of earnable points, worked through for one order."""

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Final

import typer

from service.cli.options import AsJson
from service.cli.output import print_json, print_lines
from service.domain.money import UnknownCurrencyError, exponent
from service.domain.points import Rounding, earnable_points

# A number of one line that Decimal reads exactly; `1e9`, `NaN` and `1_000` are no amounts.
_NUMBER: Final = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,6})?")


def _read_number(text: str) -> Decimal:
    if not _NUMBER.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is not a number such as 59.95")
    return Decimal(text)


def points(
    total: Annotated[
        Decimal,
        typer.Option(
            "--total",
            parser=_read_number,
            metavar="AMOUNT",
            help="Order total in major units: after reductions, before fees.",
        ),
    ],
    factor: Annotated[
        Decimal,
        typer.Option(
            "--factor", parser=_read_number, metavar="NUMBER", help="Points per whole major unit."
        ),
    ],
    rounding: Annotated[
        Rounding, typer.Option("--rounding", help="As set in SCAYLE's Panel.")
    ] = Rounding.DOWN,
    currency: Annotated[str, typer.Option("--currency", help="ISO 4217 code.")] = "EUR",
    as_json: AsJson = False,
) -> None:
    """
    Work out the points that SCAYLE grants for an order, step by step.

    The total is taken after voucher, point and gift card reductions and before fees. It is
    rounded to whole units first; that is the only reading that fits SCAYLE's own example.

    Examples:

        loyalty-relay points --total 59.95 --factor 3 --rounding up

        loyalty-relay points --total 59.95 --factor 3 --rounding down --json
    """
    code = currency.upper()
    try:
        digits = exponent(code)
    except UnknownCurrencyError:
        raise typer.BadParameter(
            f"{currency!r} is not an ISO 4217 currency", param_hint="--currency"
        ) from None
    if total != round(total, digits):
        raise typer.BadParameter(
            f"{total} has more decimals than {code} ({digits})", param_hint="--total"
        )
    if factor <= 0:
        raise typer.BadParameter("is not above zero", param_hint="--factor")
    # With factor 1 only the first rounding is left.
    units = earnable_points(total, factor=Decimal(1), rounding=rounding)
    result = earnable_points(total, factor=factor, rounding=rounding)
    if as_json:
        print_json(
            [
                {
                    "total": str(total),
                    "currency": code,
                    "factor": str(factor),
                    "rounding": rounding.value,
                    "units": units,
                    "product": str(units * factor),
                    "points": result,
                }
            ]
        )
    else:
        print_lines(_explain(total, code, factor, rounding, units=units, result=result))


def _explain(
    total: Decimal, code: str, factor: Decimal, rounding: Rounding, *, units: int, result: int
) -> Iterator[str]:
    product = units * factor
    yield f"1. order total         {total} {code}, after reductions, before fees"
    if total <= 0:
        yield "2. nothing to earn     the total is not above zero"
    else:
        yield f"2. whole units         {units} {code}, rounded {rounding}"
        yield f"3. times the factor    {units} × {factor} = {product}"
        yield f"4. whole points        {result}" + (
            "" if product == result else f", rounded {rounding}"
        )
    yield f"points: {result}"
    if product != result:
        yield (
            "With a fractional factor the second rounding is not documented; the same direction"
            " is assumed (RELAY_POINTS_TOLERANCE covers the rest)."
        )
