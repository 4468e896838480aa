"""Recording how an attempt ended."""

import logging
from typing import Final

from service.domain.clock import Clock
from service.domain.errors import LedgerUnavailableError
from service.domain.ledger import Claim, DispatchLedger, Settlement, SettleResult

_LEDGER_RETRY_S: Final = 0.5

logger = logging.getLogger("relay.outcomes")


async def record_outcome(
    ledger: DispatchLedger, claim: Claim, settlement: Settlement, *, clock: Clock
) -> SettleResult:
    """Write a known outcome until it is written; only the end of the process ends that."""
    while True:
        try:
            return await ledger.settle(claim, settlement)
        except LedgerUnavailableError as error:
            logger.error(
                "outcome.not_recorded",
                extra={"effect": claim.effect.key, "reason": error.reason},
            )
            await clock.sleep(_LEDGER_RETRY_S)
