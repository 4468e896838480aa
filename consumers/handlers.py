"""The contract of a handler: how one kind of effect is attempted and looked up."""

from dataclasses import dataclass
from typing import Final, Protocol

from service.domain.effects import CREDITS, Prerequisite
from service.domain.ledger import Claim, Doubt, LookUp, ReadyEffect, Settlement
from service.domain.ports import Permit
from service.telemetry.metrics import Metrics

# How long an order that waits for something missing stays out of the queue when the creation of
# it never reports back (the process died); the ordinary way makes it due at once.
MISSING_RETRY_MS: Final = 30_000

UNDOCUMENTED: Final = "unknown_refusal"  # of a LanePausedError that may concern one effect only


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended, and what to create before the next one."""

    settlement: Settlement
    create: Prerequisite | None = None


def count_points(metrics: Metrics, effect: ReadyEffect) -> None:
    """Count the points of an effect that was applied at Splio."""
    counter = metrics.points_booked if effect.kind in CREDITS else metrics.points_taken
    counter.inc(effect.points)


class Handler(Protocol):
    """
    One kind of effect. Raises the errors of the `Splio` port; the dispatcher turns them into
    what comes next.
    """

    async def attempt(self, claim: Claim, *, permit: Permit, deadline_s: float) -> Ended:
        """Ask Splio for the effect once. `deadline_s` is a monotonic time."""
        ...

    async def look_up(self, doubt: Doubt) -> LookUp:
        """Ask Splio whether the effect took place."""
        ...
