"""Duties: chores that one process at a time does for all."""

from typing import Final, Protocol

from service.domain.clock import Clock
from service.domain.ledger import Chore, DutyLedger
from service.telemetry.metrics import Metrics

LEASE_S: Final = 6.0  # so long a chore stands still when its process was killed
_RENEW_S: Final = 2.0


class Duty(Protocol):
    """Whether this process does this chore now; one of many processes does."""

    async def held(self) -> bool:
        """
        Take the duty or keep it, when no other process has it; asked before each round.

        For the moment in which it passes on, two processes may both have held it: what is done
        under a duty must bear being done twice. Raises: LedgerUnavailableError.
        """
        ...


class LeasedDuty:
    """
    The duty of one of many processes, by a lease in the ledger (`Duty`).

    Args:
        lease_s: longer than a round, or another process takes over within it.
    """

    def __init__(
        self,
        ledger: DutyLedger,
        chore: Chore,
        *,
        clock: Clock,
        metrics: Metrics,
        lease_s: float = LEASE_S,
    ) -> None:
        self._ledger = ledger
        self._chore = chore
        self._lease_s = lease_s
        self._clock = clock
        self._gauge = metrics.duty_held.labels(chore.value)
        self._is_held = False
        self._ask_at_s = 0.0

    async def held(self) -> bool:
        now_s = self._clock.monotonic_s()
        if now_s >= self._ask_at_s:
            self._is_held = False
            self._gauge.set(0)
            self._is_held = await self._ledger.hold_duty(self._chore, lease_s=self._lease_s)
            self._ask_at_s = now_s + _RENEW_S
            self._gauge.set(self._is_held)
        return self._is_held
