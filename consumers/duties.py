"""Duties: chores that one process at a time does for all."""

from typing import Protocol


class Duty(Protocol):
    """Whether this process does this chore now; one of many processes does."""

    async def held(self) -> bool:
        """
        Take the duty or keep it, when no other process has it; asked before each round.

        For the moment in which it passes on, two processes may both have held it: what is done
        under a duty must bear being done twice. Raises: LedgerUnavailableError.
        """
        ...


class AlwaysHeld:
    """The duty of the only process: its ledger belongs to it."""

    async def held(self) -> bool:
        return True
