"""Notices: what downstream services are told of settled effects and of dead letters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from service.domain.effects import EffectKey, Kind, State


@dataclass(frozen=True, slots=True)
class OutcomeNotice:
    """
    An effect was settled: `outcome` is applied, duplicate, rejected or void.

    Readers tell repeats by (`effect_key`, `outcome`). `reference` is what names the effect at
    Splio: the order's external id, or the credit's idempotency key; None where nothing was sent.
    """

    effect_key: EffectKey
    kind: Kind
    order_id: str
    outcome: State
    reason: str | None
    points: int
    attempt: int
    reference: str | None
    event_id: str
    settled_at_ms: int


@dataclass(frozen=True, slots=True)
class DeadLetterNotice:
    """
    A record or effect was set aside; its bytes stay in the ledger, under `id`.

    `kind` is the effect's, else `event`. Topic, partition and offset say where its record is.
    """

    id: int
    kind: str
    reason: str
    effect_key: EffectKey | None
    order_id: str | None
    event_id: str
    event_type: str
    topic: str
    partition: int
    offset: int
    at_ms: int


Notice = OutcomeNotice | DeadLetterNotice


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """A notice that waits to be published."""

    id: int
    notice: Notice


class OutboxLedger(Protocol):
    """What publishing notices needs. A notice is written with what it tells of, in one commit."""

    async def outbox(self, *, limit: int) -> Sequence[OutboxEntry]:
        """The oldest notices that are not published yet, in order."""
        ...

    async def remove_published(self, ids: Sequence[int]) -> None:
        """Forget notices that the log has acknowledged."""
        ...
