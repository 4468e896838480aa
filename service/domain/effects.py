"""Effects: what is asked of Splio, how it is named for good and the states it passes through."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NewType
from uuid import UUID, uuid5

import orjson

EffectKey = NewType("EffectKey", str)

# Idempotency keys are derived in this namespace. It must never change: a rebuilt ledger has to
# send Splio the same keys.
IDEMPOTENCY_NAMESPACE: Final = UUID("5d8f6c1e-52a7-4c07-9f0c-6a1f1b7d2e94")
FINGERPRINT_VERSION: Final = "f1"


class Kind(StrEnum):
    """What an effect changes at Splio."""

    ORDER = "order"
    EARN = "earn"
    CAPTURE = "capture"  # points spent in a checkout: settled by the hold that it makes
    DEBIT = "debit"  # a part of a capture, taken at Splio
    REFUND = "refund"  # captured points given back
    MEMBER = "member"  # a customer's card


class Lane(StrEnum):
    """The queue of one of Splio's rate categories."""

    CONTACTS = "contacts"
    SALES = "sales"
    OTHER = "other"


class State(StrEnum):
    """
    Where an effect stands.

        blocked ─released─▶ due ─claim─▶ attempting ─▶ applied | duplicate | rejected   settled
                             ▲               ├─ nothing took effect ─▶ due
                             └── absent ◀─ in_doubt ─found─▶ applied | held             looked up
        held: waits for a person.   void: planned, never to be attempted (settled).
    """

    BLOCKED = "blocked"
    DUE = "due"
    ATTEMPTING = "attempting"
    IN_DOUBT = "in_doubt"
    HELD = "held"
    APPLIED = "applied"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    VOID = "void"


OPEN_STATES: Final = (State.BLOCKED, State.DUE, State.ATTEMPTING, State.IN_DOUBT, State.HELD)
SETTLED_STATES: Final = (State.APPLIED, State.DUPLICATE, State.REJECTED, State.VOID)

LANE_OF: Final = {
    Kind.ORDER: Lane.SALES,
    Kind.EARN: Lane.OTHER,
    Kind.CAPTURE: Lane.OTHER,
    Kind.DEBIT: Lane.OTHER,
    Kind.REFUND: Lane.OTHER,
    Kind.MEMBER: Lane.OTHER,
}

CREDITS: Final = (Kind.EARN, Kind.REFUND)
"""The kinds that book points on a card by a credit."""


class Outcome(StrEnum):
    """How one attempt ended; with `retry` and `held` nothing took effect."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    IN_DOUBT = "in_doubt"
    RETRY = "retry"
    HELD = "held"


class PrerequisiteKind(StrEnum):
    """What Splio must know before it takes an order."""

    CONTACT = "contact"
    PRODUCT = "product"
    STORE = "store"


PREREQUISITE_LANE: Final = {
    PrerequisiteKind.CONTACT: Lane.CONTACTS,
    PrerequisiteKind.PRODUCT: Lane.SALES,
    PrerequisiteKind.STORE: Lane.SALES,
}


@dataclass(frozen=True, slots=True)
class Prerequisite:
    """The request that creates one contact, product or store when Splio says it is missing."""

    kind: PrerequisiteKind
    name: str
    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class RenderedRequest:
    """
    The bytes to POST for one effect, rendered once at planning and never changed.

    `path` is percent-encoded and begins with a slash; `body` is JSON.
    """

    path: str
    body: bytes
    idempotency_key: str | None = None
    prerequisites: tuple[Prerequisite, ...] = ()


def effect_key(tenant: str, kind: Kind, *parts: str) -> EffectKey:
    """The transaction key: `main:earn:2345234`. Parts are ids or HMACs, never an e-mail."""
    return EffectKey(":".join((tenant, kind.value, *parts)))


def idempotency_key(key: EffectKey) -> str:
    """The UUID handed to Splio for `key`; the same for ever."""
    return str(uuid5(IDEMPOTENCY_NAMESPACE, key))


def fingerprint(facts: Sequence[Any]) -> str:
    """
    A short digest of the source's `facts` (JSON values), with its version in front.

    Two deliveries with one key and different fingerprints contradict each other.
    """
    digest = hashlib.sha256(orjson.dumps(facts)).hexdigest()
    return f"{FINGERPRINT_VERSION}:{digest[:32]}"


def contradicts(known: str, other: str) -> bool:
    """
    Whether two fingerprints of one key contradict each other.

    A fingerprint of an unknown version cannot be compared and counts as the same.
    """
    known_version, _, _ = known.partition(":")
    other_version, _, _ = other.partition(":")
    return known_version == other_version == FINGERPRINT_VERSION and known != other
