"""What a point is worth, and amounts in points."""

import asyncio
import logging
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Final

from service.checkout.arrival import Arrival
from service.checkout.cards import Programs
from service.domain.clock import Clock, time_limit
from service.domain.errors import NotFoundError, PermanentError, RelayError, RetryableError
from service.domain.loyalty import LoyaltyProgram, LoyaltySplio
from service.domain.money import UnknownCurrencyError, to_major
from service.domain.planning import MAX_POINTS

_KNOWN_FOR_S: Final = 300.0  # SCAYLE asks every few minutes, per programme and currency
_AWAY_S: Final = 10.0  # Splio did not say: what is known is answered without asking again
_MISSING_RETRY_S: Final = 60.0  # of what only a person can set right


logger = logging.getLogger("relay.checkout")


class AmountUnit(StrEnum):
    """What `amount` counts in a capture or refund; SCAYLE does not say."""

    POINTS = "points"
    MONEY = "money"


class Rates:
    """
    Conversion factors by programme and currency: points times factor is money in major units.

    From the settings; else the `default_points_to_amount_ratio` of Splio's programme, whose
    meaning is inferred from its name. The last one known stands while Splio is away, as captures
    are of orders that are confirmed.
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
        self._known: dict[str, Decimal | None] = {}
        self._known_until_s: dict[str, float] = {}
        self._questions: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Stop asking."""
        questions = list(self._questions.values())
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)

    async def factor(self, program: str, currency: str, arrival: Arrival) -> Decimal:
        """
        The factor, exact.

        Raises: NotFoundError `unknown_program`, `no_rate`; the errors of reading.
        """
        splio_id = self._programs.splio_id(program)
        rate = self._rates.get((program, currency))
        if rate is not None:
            return rate
        if self._clock.monotonic_s() >= self._known_until_s.get(program, 0.0):
            await self._ask(program, splio_id, arrival)
        known = self._known.get(program)
        if known is None:
            raise NotFoundError("no_rate", f"set RELAY_LOYALTY_RATES={program}:{currency}=…")
        return known

    async def _ask(self, program: str, splio_id: str, arrival: Arrival) -> None:
        """Have Splio asked, within the time of the first call that wants to know."""
        question = self._questions.get(program)
        if question is None:
            question = asyncio.create_task(self._learn(program, splio_id, arrival), name="rate")
            self._questions[program] = question
            question.add_done_callback(lambda _: self._questions.pop(program))
        await asyncio.shield(question)

    async def _learn(self, program: str, splio_id: str, arrival: Arrival) -> None:
        """Know what Splio says. Raises: the errors of reading, where nothing is known."""
        try:
            found = await self._read(splio_id, arrival)
        except RelayError as error:
            if self._known.get(program) is None:
                raise
            logger.warning("rate.not_read", extra={"reason": error.reason})
            known_for_s = _AWAY_S
        else:
            ratio = found.points_to_amount if found else None
            self._known[program] = Decimal(ratio) if ratio else None
            known_for_s = _KNOWN_FOR_S
        self._known_until_s[program] = self._clock.monotonic_s() + known_for_s

    async def _read(self, splio_id: str, arrival: Arrival) -> LoyaltyProgram | None:
        try:
            async with time_limit(self._clock, arrival.deadline_s - self._clock.monotonic_s()):
                permit = await self._splio.checkout_permit()
        except TimeoutError as error:
            raise RetryableError("deadline_passed", "waited for a permit") from error
        return await self._splio.read_program(
            splio_id,
            permit=permit,
            deadline_s=arrival.deadline_s,
            traceparent=arrival.traceparent,
        )

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
                if whole > MAX_POINTS:
                    raise PermanentError("amount_too_large", "it is of more points than exist")
                return max(int(whole), 1)
