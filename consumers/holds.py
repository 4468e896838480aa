"""Ends holds whose points Splio shows as taken, and gives waiting refunds to a person."""

import asyncio
import logging
from typing import Final

from consumers.balances import BalanceReader
from consumers.duties import Duty
from consumers.stopping import first_of, set_within
from service.domain.checkout import CheckoutLedger
from service.domain.clock import Clock, time_limit
from service.domain.errors import RelayError
from service.domain.loyalty import LoyaltySplio
from service.telemetry.tracing import new_traceparent

CAPTURE_WITHIN_MS: Final = 48 * 3_600_000  # so long SCAYLE repeats a capture that was refused
HOLDS_LEASE_S: Final = 20.0  # for one card, the pause after it, and the duty asked for before it
# Between cards that are asked about. Balance and points ledger are asked twice of a card whose
# debit is shown: 0.8 requests/s of the part that is reserved.
_EVERY_S: Final = 5.0
_IDLE_S: Final = 30.0  # after the last card, as balances that are asked for end their holds sooner
_TIME_S: Final = 10.0  # for all questions about one card
_EXPIRE_EVERY_S: Final = 60.0
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
        self._after: str | None = None  # the card that was looked at last, of this round
        self._expire_at_s = clock.monotonic_s()

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            wait_s = self._idle_s
            try:
                if await self._duty.held():
                    await self._expire()
                    wait_s = await self._go_on(stop)
            except RelayError as error:
                logger.warning("holds.not_read", extra={"reason": error.reason})
            await set_within(stop, self._clock, wait_s)

    async def _expire(self) -> None:
        """Now and then: give refunds to a person whose capture did not come."""
        if self._clock.monotonic_s() < self._expire_at_s:
            return
        older = self._clock.now_ms() - CAPTURE_WITHIN_MS
        expired = await self._ledger.expire_waiting_refunds(older_than_ms=older)
        self._expire_at_s = self._clock.monotonic_s() + _EXPIRE_EVERY_S
        if expired:
            logger.error("refunds.without_capture", extra={"count": expired})

    async def _go_on(self, stop: asyncio.Event) -> float:
        """Read the next card that has something to be shown; the seconds to wait after it."""
        cards = await self._ledger.unsettled_cards(limit=_PAGE, after=self._after)
        for card in cards:
            known = await self._ledger.known_balance(card)
            self._after = card
            if known.unseen:  # else nothing was sent: asking would not end anything
                await self._read(stop, card)
                return self._every_s
        if len(cards) == _PAGE:
            return 0.0
        self._after = None
        return self._idle_s

    async def _read(self, stop: asyncio.Event, card: str) -> None:
        try:
            async with time_limit(self._clock, _TIME_S):
                await first_of(stop, self._ask(card))
        except TimeoutError:
            logger.info("hold.not_read", extra={"reason": "no_answer"})
        except RelayError as error:
            logger.info("hold.not_read", extra={"reason": error.reason})

    async def _ask(self, card: str) -> None:
        deadline_s = self._clock.monotonic_s() + _TIME_S
        permit = await self._splio.checkout_permit()
        try:
            await self._balances.read(
                card, permit=permit, deadline_s=deadline_s, traceparent=new_traceparent()
            )
        finally:
            permit.hand_back()
