"""The slow reader: marks bookings that Splio accepted (202) once its points ledger shows them."""

import asyncio
import logging
from typing import Final

from consumers.duties import Duty
from consumers.stopping import first_of, pause
from service.domain.errors import RelayError
from service.domain.ledger import DoubtLedger
from service.domain.ports import CreditPage, Splio, Step, StepHook

_EVERY_S: Final = 5.0  # at most 0.2 requests/s of the lane that bookings use (DESIGN, "Splio")
_IDLE_S: Final = 60.0  # after the last page or a failure, as nothing waits for the mark

logger = logging.getLogger("relay.seen")


class SeenReader:
    """
    Reads Splio's points ledger from where it stopped, a page at a time.

    A 202 says only that the credit was accepted. A booking that does not show within a day is a
    matter for an alarm; the metric of the oldest unseen one carries it.
    """

    name = "seen"

    def __init__(
        self,
        ledger: DoubtLedger,
        splio: Splio,
        *,
        duty: Duty,
        tenant: str,
        step: StepHook,
        every_s: float = _EVERY_S,
        idle_s: float = _IDLE_S,
    ) -> None:
        self._ledger = ledger
        self._splio = splio
        self._duty = duty
        self._prefix = f"{tenant}:"
        self._step = step
        self._every_s = every_s
        self._idle_s = idle_s

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                if not await self._duty.held():
                    await pause(stop, self._every_s)
                    continue
                cursor = await self._ledger.credits_cursor()
                page = await first_of(stop, self._splio.list_credits(after=cursor))
                if page is None:
                    return
                await self._mark(page, cursor)
            except RelayError as error:
                logger.warning("credits.not_read", extra={"reason": error.reason})
                await pause(stop, self._idle_s)
            else:
                await pause(stop, self._idle_s if page.is_last else self._every_s)

    async def _mark(self, page: CreditPage, cursor: str | None) -> None:
        ours = [context for context in page.contexts if context.startswith(self._prefix)]
        # A page without a cursor is the end; going on from the one before reads it once more,
        # while None would begin anew.
        if ours or page.cursor is not None:
            seen = await self._ledger.mark_seen(ours, page.cursor or cursor)
            self._step(Step.CREDITS_SEEN)
            if seen:
                logger.info("credits.seen", extra={"count": seen})
