"""SCAYLE Checkout's calls that change points, and the ledger's part in them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from service.domain.effects import LANE_OF, EffectKey, Kind, RenderedRequest, State
from service.domain.ledger import Page, PlanResult, ReadyEffect
from service.domain.planning import Plan, PlannedEffect, Reason


class CallOperation(StrEnum):
    """The calls of SCAYLE Checkout, as their paths end."""

    POINTS_RATE = "points-rate"
    BALANCE = "balance"
    VALIDATE = "validate"
    VERIFY = "verify"
    REGISTER = "register"
    COLLECT = "collect"
    CAPTURE = "capture"
    REFUND = "refund"


@dataclass(frozen=True, slots=True)
class Call:
    """
    A call as it is kept with what it led to: `body` is ours, made of the fields that we use.
    """

    operation: CallOperation
    call_id: str  # a UUIDv7, made at receipt
    order_key: str | None
    body: bytes
    received_at_ms: int
    traceparent: str


@dataclass(frozen=True, slots=True)
class Spending:
    """
    Points of one card for one order, by one transaction key: a capture, or a refund of one.

    `program` is SCAYLE's key of the programme (`type`); `amount` is as sent, in the unit that
    RELAY_LOYALTY_AMOUNT_UNIT names: it tells a repeat from a contradiction whatever a point is
    worth by then.
    """

    program: str
    transaction_key: str
    order_key: str
    card: str
    amount: int
    points: int
    currency: str | None


class Debits(Protocol):
    """
    Plans how points are taken at Splio; pure, called inside the ledger's transaction.

    The seam for other ways than rewards: effects of another kind, each with its handler, are all
    that a file of debits (Splio Datahub's `creditpoints`) needs here.
    """

    def __call__(
        self, spending: Spending, *, revision: int, received_at_ms: int
    ) -> Sequence[PlannedEffect]:
        """
        The debits of `spending.points`, each waiting for the one before; none where a hold is all.
        """
        ...


@dataclass(frozen=True, slots=True)
class PlannedCapture:
    """A capture to be recorded; `fingerprint` covers card and amount."""

    key: EffectKey
    fingerprint: str
    spending: Spending
    debits: Debits
    call: Call

    @property
    def effect(self) -> PlannedEffect:
        """The capture itself: settled by the hold that is written with it."""
        return PlannedEffect(
            key=self.key,
            kind=Kind.CAPTURE,
            lane=LANE_OF[Kind.CAPTURE],
            order_key=self.spending.order_key,
            fingerprint=self.fingerprint,
            state=State.APPLIED,
            request=None,
            reason="hold",
            points=self.spending.points,
        )


@dataclass(frozen=True, slots=True)
class PlannedRefund:
    """
    A refund to be recorded. `request` credits it, should its capture have reached Splio.

    Its points are worth what they are now; where its capture is known it is `of_points` of those
    that its amount had then.
    """

    key: EffectKey
    capture_key: EffectKey
    fingerprint: str
    spending: Spending
    request: RenderedRequest
    debits: Debits
    call: Call
    is_over_limit: bool
    of_points: Callable[[int], "PlannedRefund"]

    @property
    def effect(self) -> PlannedEffect:
        """The refund as a credit that is due, or of more points than go without a person."""
        return PlannedEffect(
            key=self.key,
            kind=Kind.REFUND,
            lane=LANE_OF[Kind.REFUND],
            order_key=self.spending.order_key,
            fingerprint=self.fingerprint,
            state=State.HELD if self.is_over_limit else State.DUE,
            request=self.request,
            reason=Reason.POINTS_OVER_LIMIT if self.is_over_limit else None,
            points=self.spending.points,
        )


class Recorded(StrEnum):
    """What the ledger did with a capture or a refund."""

    TAKEN = "taken"
    REPEATED = "repeated"
    CONFLICT = "conflict"  # the key is known with another amount or card: a dead letter
    MORE_THAN_CAPTURED = "more_than_captured"  # refunds beyond the capture: a dead letter
    NO_CAPTURE = "no_capture"  # a refund that waits for its capture


@dataclass(frozen=True, slots=True)
class Recording:
    """What was done, the effects that are due by it, and whether it is beyond what is known."""

    recorded: Recorded
    fresh: tuple[ReadyEffect, ...] = ()
    over_balance: bool = False


@dataclass(frozen=True, slots=True)
class KnownBalance:
    """
    What is known of a card: the points that Splio last said, and what we hold of them.

    `at_splio` is None for a card that Splio did not know, or that was never asked about
    (`asked_at_ms` None). `unseen` are debits that were attempted and that no balance is known
    to show.
    """

    at_splio: int | None
    asked_at_ms: int | None
    held: int
    unseen: tuple[EffectKey, ...]
    generation: int = 0

    @property
    def usable(self) -> int | None:
        """What may be spent, never negative."""
        return None if self.at_splio is None else max(self.at_splio - self.held, 0)


def mask(card: str) -> str:
    """A card number for lists: its last four characters."""
    return f"…{card[-4:]}"


@dataclass(frozen=True, slots=True)
class Reading:
    """
    A balance that Splio answered to a question at `asked_at_ms`, after `generation` was read.

    `considered`: the unseen debits of which it is known whether it shows them; `shown` those of
    them that it does.
    """

    card: str
    points: int | None
    asked_at_ms: int
    considered: frozenset[EffectKey] = frozenset()
    shown: frozenset[EffectKey] = frozenset()
    generation: int = 0


class CheckoutLedger(Protocol):
    """
    What the checkout's calls need. Each write is one transaction, committed when it returns.

    Raises: LedgerUnavailableError; PermanentError `not_storable`.
    """

    async def record_capture(self, capture: PlannedCapture) -> Recording:
        """
        Write effect, hold and debits of a capture, or find it known.

        Refunds that came before it are taken off it at once.
        """
        ...

    async def record_refund(self, refund: PlannedRefund) -> Recording:
        """
        Give captured points back, or find it known.

        A capture of which Splio has taken nothing shrinks; of another one the refund is a
        credit that waits for the capture's debits; without a capture it waits for it.
        """
        ...

    async def record_call(self, call: Call, plan: Plan) -> PlanResult:
        """Write the plan of a call (a collect, a registration) as `record_plans` would."""
        ...

    async def register_again(self, call: Call, effect: PlannedEffect) -> ReadyEffect | None:
        """A registration that was refused may be tried again; None when it was not refused."""
        ...

    async def known_balance(self, card: str) -> KnownBalance:
        """What is known of the card, of one moment."""
        ...

    async def record_balance(self, reading: Reading) -> KnownBalance | None:
        """
        Take a newer balance and end what it shows of the holds, in one step.

        Returns: what is known now; None, and nothing is written, when a debit was attempted that
            the reading does not consider (it may show it or not), or when holds were ended since
            it was begun.
        """
        ...

    async def unsettled_cards(self, *, limit: int, after: str | None) -> Sequence[str]:
        """Cards of holds whose debits wait to be shown, by card, beginning after that one."""
        ...

    async def expire_waiting_refunds(self, *, older_than_ms: int) -> int:
        """Hold refunds whose capture did not come; returns how many."""
        ...

    async def hmac_key(self) -> bytes:
        """The secret that contact keys are hashed with, made once for each ledger."""
        ...


class HoldsLedger(Protocol):
    """What an operator sees and ends. Raises: NotFoundError, WrongStateError."""

    async def list_holds(self, *, only_open: bool, limit: int, after: str | None) -> Page:
        """Holds by their capture's key, cards masked."""
        ...

    async def show_hold(self, key: EffectKey) -> Mapping[str, Any]:
        """One hold with its card, its refunds and debits."""
        ...

    async def end_hold(self, key: EffectKey, *, by: str) -> None:
        """The points were taken at Splio by other means: a refund is a credit from now on."""
        ...
