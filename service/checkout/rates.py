"""What a point is worth, and amounts in points."""

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Final

from service.checkout.arrival import Arrival
from service.checkout.cards import Programs
from service.domain.clock import Clock
from service.domain.errors import NotFoundError, PermanentError, RetryableError
from service.domain.loyalty import LoyaltySplio
from service.domain.money import UnknownCurrencyError, to_major

_MAX_POINTS: Final = 2**63 - 1  # what a 64-bit column holds
_KNOWN_FOR_S: Final = 300.0  # SCAYLE asks every few minutes, per programme and currency
_MISSING_RETRY_S: Final = 60.0  # of what only a person can set right


class AmountUnit(StrEnum):
    """What `amount` counts in a capture or refund; SCAYLE does not say."""

    POINTS = "points"
    MONEY = "money"


class Rates:
    """
    Conversion factors by programme and currency: points times factor is money in major units.

    From the settings; else the `default_points_to_amount_ratio` of Splio's programme, whose
    meaning is inferred from its name.
    """

    def __init__(
        self,
        splio: LoyaltySplio,
        programs: Programs,
        rates: Mapping[tuple[str, str], Decimal],
        *,
        unit: AmountUnit | None,
        clock: Clock,
    ) -> None:
        self._splio = splio
        self._programs = programs
        self._rates = rates
        self._unit = unit
        self._clock = clock
        self._known: dict[str, tuple[Decimal | None, float]] = {}

    async def factor(self, program: str, currency: str, arrival: Arrival) -> Decimal:
        """
        The factor, exact.

        Raises: NotFoundError `unknown_program`, `no_rate`; the errors of reading.
        """
        splio_id = self._programs.splio_id(program)
        rate = self._rates.get((program, currency))
        if rate is not None:
            return rate
        known, until_s = self._known.get(program, (None, 0.0))
        if self._clock.monotonic_s() >= until_s:
            permit = await self._splio.checkout_permit()
            found = await self._splio.read_program(
                splio_id,
                permit=permit,
                deadline_s=arrival.deadline_s,
                traceparent=arrival.traceparent,
            )
            ratio = found.points_to_amount if found else None
            known = Decimal(ratio) if ratio else None
            self._known[program] = known, self._clock.monotonic_s() + _KNOWN_FOR_S
        if known is None:
            raise NotFoundError("no_rate", f"set RELAY_LOYALTY_RATES={program}:{currency}=…")
        return known

    async def points(
        self, amount: int, program: str, currency: str | None, arrival: Arrival
    ) -> int:
        """
        `amount` in points, 1 at least.

        Money is in the smallest unit of its currency and rounded to the nearest point, as it was
        made of whole points.
        Raises: RetryableError `amount_unit_not_set`, `no_rate`, `unknown_currency`: a setting is
            missing, and SCAYLE sends the call again for two days; PermanentError
            `amount_too_large`; the errors of reading.
        """
        match self._unit:
            case None:
                raise RetryableError(
                    "amount_unit_not_set",
                    "RELAY_LOYALTY_AMOUNT_UNIT says whether amounts are points or money",
                    retry_after_s=_MISSING_RETRY_S,
                )
            case AmountUnit.POINTS:
                return amount
            case AmountUnit.MONEY:
                try:
                    factor = await self.factor(program, currency or "", arrival)
                    money = to_major(amount, currency or "")
                except NotFoundError as error:
                    if error.reason != "no_rate":
                        raise
                    raise RetryableError(
                        error.reason, error.detail, retry_after_s=_MISSING_RETRY_S
                    ) from error
                except UnknownCurrencyError as error:
                    raise RetryableError(
                        "unknown_currency", retry_after_s=_MISSING_RETRY_S
                    ) from error
                whole = (money / factor).to_integral_value(rounding=ROUND_HALF_UP)
                if whole > _MAX_POINTS:
                    raise PermanentError("amount_too_large", "it is of more points than exist")
                return max(int(whole), 1)
