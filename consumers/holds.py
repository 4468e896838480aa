"""Ends holds whose points Splio shows as taken, and gives waiting refunds to a person."""

import asyncio
import logging
from typing import Final

from consumers.balances import BalanceReader
from consumers.duties import Duty
from consumers.stopping import first_of, pause
from service.domain.checkout import CheckoutLedger
from service.domain.clock import Clock
from service.domain.errors import RelayError
from service.domain.loyalty import LoyaltySplio
from service.telemetry.tracing import new_traceparent

CAPTURE_WITHIN_MS: Final = 48 * 3_600_000  # so long SCAYLE repeats a capture that was refused
_EVERY_S: Final = 5.0  # between cards: at most 0.6 requests/s of the part that is reserved
_IDLE_S: Final = 30.0  # after the last card, as balances that are asked for end their holds sooner
_TIME_S: Final = 10.0  # for all questions about one card
_PAGE: Final = 50

logger = logging.getLogger("relay.holds")


class HoldsWorker:
    """
    Reads the balances of cards whose debits were sent and are not shown yet, one after the other.

    A shopper who asks for a balance ends the hold as well; this is for those who left.
    """

    name = "holds"

    def __init__(
        self,
        ledger: CheckoutLedger,
        splio: LoyaltySplio,
        balances: BalanceReader,
        *,
        duty: Duty,
        clock: Clock,
        every_s: float = _EVERY_S,
        idle_s: float = _IDLE_S,
    ) -> None:
        self._ledger = ledger
        self._splio = splio
        self._balances = balances
        self._duty = duty
        self._clock = clock
        self._every_s = every_s
        self._idle_s = idle_s

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                if await self._duty.held():
                    await self._round(stop)
            except RelayError as error:
                logger.warning("holds.not_read", extra={"reason": error.reason})
            await pause(stop, self._idle_s)

    async def _round(self, stop: asyncio.Event) -> None:
        older = self._clock.now_ms() - CAPTURE_WITHIN_MS
        expired = await self._ledger.expire_waiting_refunds(older_than_ms=older)
        if expired:
            logger.error("refunds.without_capture", extra={"count": expired})
        after: str | None = None
        while not stop.is_set():
            cards = await self._ledger.unsettled_cards(limit=_PAGE, after=after)
            for card in cards:
                if stop.is_set() or not await self._duty.held():
                    return
                await self._read(stop, card)
                await pause(stop, self._every_s)
            if len(cards) < _PAGE:
                return
            after = cards[-1]

    async def _read(self, stop: asyncio.Event, card: str) -> None:
        if not (await self._ledger.known_balance(card)).unseen:
            return  # nothing was sent yet: asking would not end anything
        try:
            async with asyncio.timeout(_TIME_S):
                await first_of(stop, self._ask(card))
        except TimeoutError:
            logger.info("hold.not_read", extra={"reason": "no_answer"})
        except RelayError as error:
            logger.info("hold.not_read", extra={"reason": error.reason})

    async def _ask(self, card: str) -> None:
        permit = await self._splio.checkout_permit()
        await self._balances.read(
            card,
            permit=permit,
            deadline_s=self._clock.monotonic_s() + _TIME_S,
            traceparent=new_traceparent(),
        )
