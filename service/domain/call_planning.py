"""Planning of SCAYLE Checkout's calls: which effects a call asks for. Pure; no I/O and no clock."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, Protocol
from urllib.parse import quote

import orjson

from service.domain.checkout import (
    Call,
    CallOperation,
    PlannedCapture,
    PlannedRefund,
    Spending,
)
from service.domain.effects import (
    LANE_OF,
    EffectKey,
    Kind,
    RenderedRequest,
    State,
    effect_key,
    fingerprint,
)
from service.domain.errors import PoisonMessageError
from service.domain.events import Customer
from service.domain.planning import Earn, Plan, PlannedEffect, Reason, earn_fingerprint

_KEY_PART_LIMIT: Final = 64  # characters of a key; a longer one is hashed
_HASHED: Final = "sha256-"


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """
    The settings that planning of calls obeys.

    `rewards` are the denominations of debits, points and Splio's reward id, the largest first;
    none: a capture is settled by its hold alone.
    """

    tenant: str
    timezone: str = "UTC"
    points_limit: int = 100_000
    rewards: tuple[tuple[int, str], ...] = field(default=())


class CallRenderer(Protocol):
    """Renders the requests to store with the effects of calls, in the words of the platform."""

    def credit(
        self,
        *,
        key: EffectKey,
        card: str,
        points: int,
        at: datetime,
        timezone: str,
        is_given_back: bool = False,
    ) -> RenderedRequest:
        """
        The request that books `points` on `card`, of the kind that can be spent if they are given
        back. Raises: ValueError for an unusable card.
        """
        ...

    def grant(
        self,
        *,
        key: EffectKey,
        card: str,
        reward: str,
        quantity: int,
        at: datetime,
        timezone: str,
    ) -> RenderedRequest:
        """The request that grants and uses a reward, which takes its points."""
        ...

    def membership(
        self, *, program: str, contact_id: str, customer: Customer, language: str | None
    ) -> RenderedRequest:
        """The request that makes a contact a member, with the one that creates the contact."""
        ...


class CallPlanner:
    """Plans calls by one policy."""

    def __init__(self, policy: CallPolicy, renderer: CallRenderer) -> None:
        self._policy = policy
        self._renderer = renderer

    def capture(self, spending: Spending, call: Call) -> PlannedCapture:
        """The capture with the way in which its points will be taken at Splio."""
        return PlannedCapture(
            key=self._key(Kind.CAPTURE, spending),
            fingerprint=_spent(spending),
            spending=spending,
            debits=self._debits,
            call=call,
        )

    def refund(self, spending: Spending, call: Call) -> PlannedRefund:
        """The refund with the credit that it becomes when its capture has reached Splio."""
        key = self._key(Kind.REFUND, spending)

        def of_points(points: int) -> PlannedRefund:
            less = replace(spending, points=points)
            return self.refund(less, replace(call, body=call_body(call.operation, less)))

        return PlannedRefund(
            key=key,
            capture_key=self._key(Kind.CAPTURE, spending),
            fingerprint=_spent(spending),
            spending=spending,
            request=self._credit(
                key, spending.card, spending.points, call.received_at_ms, is_given_back=True
            ),
            debits=self._debits,
            call=call,
            is_over_limit=spending.points > self._policy.points_limit,
            of_points=of_points,
        )

    def collect(self, *, order_key: str, card: str, points: int, received_at_ms: int) -> Plan:
        """The booking of an order's points, under the same key as by its webhook."""
        key = effect_key(self._policy.tenant, Kind.EARN, order_key)
        is_over = points > self._policy.points_limit
        effect = PlannedEffect(
            key=key,
            kind=Kind.EARN,
            lane=LANE_OF[Kind.EARN],
            order_key=order_key,
            fingerprint=earn_fingerprint(card, points),
            state=State.HELD if is_over else State.DUE,
            request=self._credit(key, card, points, received_at_ms),
            reason=Reason.POINTS_OVER_LIMIT if is_over else None,
            points=points,
        )
        return Plan(order_key, (effect,), earn=Earn(key, effect.fingerprint, is_collect=True))

    def membership(
        self,
        *,
        program: str,
        contact_hash: str,
        contact_id: str,
        customer: Customer,
        language: str | None,
    ) -> Plan:
        """
        The membership of one customer in one programme (Splio's id); `contact_hash` stands for
        the contact in the key.
        """
        key = effect_key(self._policy.tenant, Kind.MEMBER, program, contact_hash)
        effect = PlannedEffect(
            key=key,
            kind=Kind.MEMBER,
            lane=LANE_OF[Kind.MEMBER],
            order_key=f"member-{contact_hash}",
            fingerprint=fingerprint([program, contact_hash]),
            state=State.DUE,
            request=self._renderer.membership(
                program=program, contact_id=contact_id, customer=customer, language=language
            ),
        )
        return Plan(effect.order_key, (effect,))

    def plan_again(self, body: bytes, *, kind: str, call_id: str, received_at_ms: int) -> Plan:
        """
        The plan of a kept call, for a replay: of a collect, or of a refund that Splio refused.

        Args:
            kind: of the dead letter. One of a whole refund was refused by us, as it contradicts
                its capture: credited, more would be given back than was captured.
        Raises: PoisonMessageError for another, which a person settles in another way.
        """
        operation, spending = read_call(body)
        match operation:
            case CallOperation.COLLECT:
                return self.collect(
                    order_key=spending.order_key,
                    card=spending.card,
                    points=spending.points,
                    received_at_ms=received_at_ms,
                )
            case CallOperation.REFUND if kind == Kind.REFUND:
                call = Call(operation, call_id, spending.order_key, body, received_at_ms, "")
                return Plan(spending.order_key, (self.refund(spending, call).effect,))
            case _:
                raise PoisonMessageError("not_replayable", f"a {operation} is not planned again")

    def _key(self, kind: Kind, spending: Spending) -> EffectKey:
        part = _key_part(spending.transaction_key)
        return effect_key(self._policy.tenant, kind, spending.program, part)

    def _credit(
        self,
        key: EffectKey,
        card: str,
        points: int,
        received_at_ms: int,
        *,
        is_given_back: bool = False,
    ) -> RenderedRequest:
        return self._renderer.credit(
            key=key,
            card=card,
            points=points,
            at=_moment(received_at_ms),
            timezone=self._policy.timezone,
            is_given_back=is_given_back,
        )

    def _debits(
        self, spending: Spending, *, revision: int, received_at_ms: int
    ) -> Sequence[PlannedEffect]:
        """
        One grant per denomination, the largest first, each after the one before.

        More points than the limit wait for a person; the first debit holds the others.
        """
        debits: list[PlannedEffect] = []
        base = self._key(Kind.DEBIT, spending)
        for worth, quantity, reward in denominations(spending.points, self._policy.rewards):
            key = EffectKey(f"{base}:{revision}:{worth}")
            is_over = not debits and spending.points > self._policy.points_limit
            debits.append(
                PlannedEffect(
                    key=key,
                    kind=Kind.DEBIT,
                    lane=LANE_OF[Kind.DEBIT],
                    order_key=spending.order_key,
                    fingerprint=fingerprint([spending.card, worth, quantity]),
                    state=State.HELD if is_over else State.DUE,
                    request=self._renderer.grant(
                        key=key,
                        card=spending.card,
                        reward=reward,
                        quantity=quantity,
                        at=_moment(received_at_ms),
                        timezone=self._policy.timezone,
                    ),
                    after=debits[-1].key if debits else None,
                    reason=Reason.POINTS_OVER_LIMIT if is_over else None,
                    points=worth * quantity,
                )
            )
        return debits


def denominations(points: int, rewards: Sequence[tuple[int, str]]) -> list[tuple[int, int, str]]:
    """
    `points` as (worth, quantity, reward), the largest first; they add up exactly, as one of the
    rewards is worth 1. Empty without rewards.
    """
    parts = []
    for worth, reward in sorted(rewards, reverse=True):
        quantity, points = divmod(points, worth)
        if quantity:
            parts.append((worth, quantity, reward))
    return parts


def call_body(operation: CallOperation, spending: Spending) -> bytes:
    """A call as it is kept: what we use of it, and nothing else."""
    return orjson.dumps(
        {
            "operation": operation.value,
            "program": spending.program,
            "transaction_key": spending.transaction_key,
            "order_id": spending.order_key,
            "card": spending.card,
            "amount": spending.amount,
            "points": spending.points,
            "currency": spending.currency,
        }
    )


def read_call(body: bytes) -> tuple[CallOperation, Spending]:
    """The inverse of `call_body`. Raises: PoisonMessageError."""
    try:
        fields: Mapping[str, object] = orjson.loads(body)
        amount, points = fields["amount"], fields["points"]
        if type(amount) is not int or type(points) is not int:
            raise ValueError("amount or points")
        return CallOperation(str(fields["operation"])), Spending(
            program=str(fields["program"]),
            transaction_key=str(fields["transaction_key"]),
            order_key=str(fields["order_id"]),
            card=str(fields["card"]),
            amount=amount,
            points=points,
            currency=None if fields["currency"] is None else str(fields["currency"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise PoisonMessageError("not_a_call", type(error).__name__) from error


def _key_part(transaction_key: str) -> str:
    """
    The transaction key as a part of ours: without a colon, of a bounded length, no two alike.

    SCAYLE's are 28 hexadecimal characters; what a key may be is not documented.
    """
    part = quote(transaction_key, safe="")
    if len(part) <= _KEY_PART_LIMIT and not part.startswith(_HASHED):
        return part
    return f"{_HASHED}{hashlib.sha256(transaction_key.encode()).hexdigest()[:40]}"


def _spent(spending: Spending) -> str:
    return fingerprint([spending.card, spending.amount])


def _moment(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)
