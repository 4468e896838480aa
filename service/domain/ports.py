"""Ports: what the use cases need of the log and of Splio; each docstring is the contract."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from service.domain.effects import EffectKey, Lane, Prerequisite, PrerequisiteKind, RenderedRequest
from service.domain.records import NewRecord, PublicRecord, Record, Stream


class Step(StrEnum):
    """
    The labelled steps of an event's or a call's way, each a place where the process may die.

    The kill matrix kills a real process at every one of them. Production passes `no_step`.
    """

    WEBHOOK_READ = "webhook_read"
    WEBHOOK_PUBLISHED = "webhook_published"
    LOG_BEFORE_COMMIT = "log_before_commit"
    LOG_AFTER_COMMIT = "log_after_commit"
    LOG_TRIMMED = "log_trimmed"
    SPOOL_APPENDED = "spool_appended"
    SPOOL_FORWARDED = "spool_forwarded"
    SPOOL_ACKNOWLEDGED = "spool_acknowledged"
    SPOOL_LEFT = "spool_left"
    RECORDS_FETCHED = "records_fetched"
    RECORDS_PLANNED = "records_planned"
    PLANS_COMMITTED = "plans_committed"
    LEDGER_BEFORE_COMMIT = "ledger_before_commit"
    LEDGER_AFTER_COMMIT = "ledger_after_commit"
    PERMIT_TAKEN = "permit_taken"
    EFFECT_CLAIMED = "effect_claimed"
    REQUEST_STARTED = "request_started"
    REQUEST_SENT = "request_sent"
    REPLY_RECEIVED = "reply_received"
    ATTEMPT_ENDED = "attempt_ended"
    OUTCOME_RECORDED = "outcome_recorded"
    PREREQUISITE_CREATED = "prerequisite_created"
    LOOK_UP_ANSWERED = "look_up_answered"
    LOOK_UP_RECORDED = "look_up_recorded"
    CREDITS_SEEN = "credits_seen"
    OUTBOX_READ = "outbox_read"
    OUTBOX_PUBLISHED = "outbox_published"
    OUTBOX_REMOVED = "outbox_removed"
    LEDGER_PURGED = "ledger_purged"
    CALL_RECORDED = "call_recorded"
    BALANCE_RECORDED = "balance_recorded"


StepHook = Callable[[Step], None]


def no_step(step: Step) -> None:
    """The hook of production: nothing happens at a step."""


class LogWriter(Protocol):
    """Appends records durably. Safe for concurrent tasks."""

    async def append(self, record: NewRecord) -> None:
        """
        Put `record` at the end of its stream.

        Durability: when this returns the record is on disk (SQLite) or acknowledged by the
        in-sync replicas (Kafka). After an error it may or may not be there.
        Bounded: raises LogUnavailableError at once when too much is waiting.
        Raises: LogUnavailableError (full, read only, away), PermanentError (refused for good).
        """
        ...


class LogReader(Protocol):
    """Reads the streams assigned to one consumer, each in order. For one task."""

    async def fetch(self, *, max_records: int, wait_s: float) -> Sequence[Record]:
        """
        The next records, in order within each stream; empty when none came within `wait_s`.

        Fetching again means that the records fetched before are finished with: their outcome
        is committed, or they were given up and `seek` was called.
        """
        ...

    async def seek(self, positions: Mapping[Stream, int]) -> None:
        """Go on at these positions (after a failed commit of what was fetched)."""
        ...

    async def acknowledge(self, positions: Mapping[Stream, int]) -> None:
        """Tell the log how far the ledger is: for lag displays and trimming, nothing else."""
        ...

    async def close(self) -> None: ...


# Given the streams that a reader was assigned, the positions at which the ledger wants to go on;
# a stream that is missing in the answer is read from its beginning.
PositionSource = Callable[[Sequence[Stream]], Awaitable[Mapping[Stream, int]]]


class EventLog(LogWriter, Protocol):
    """The durable log: SQLite embedded, Kafka distributed. One contract suite runs on both."""

    async def open_reader(self, positions: PositionSource) -> LogReader:
        """A reader of all topics that intake consumes, beginning at the ledger's positions."""
        ...

    async def end_positions(self) -> Mapping[Stream, int]:
        """Per stream, the offset that the next record will get; for lag."""
        ...

    async def acknowledged(self) -> Mapping[Stream, int]:
        """
        How far the log was told that the ledger is (`LogReader.acknowledge`), as the log keeps it
        over restarts; a stream that was never acknowledged is missing.

        It may be behind the ledger, never before it: a ledger that is behind was put back from a
        copy, or lost.
        """
        ...

    async def positions_at(self, time_ms: int) -> Mapping[Stream, int]:
        """Per stream, the offset of the first record appended at that time or later."""
        ...

    async def trim(self, *, limit: int) -> int:
        """
        Remove at most `limit` records that are old and read; returns how many, 0 where the
        brokers do it themselves. Raises: LogUnavailableError.
        """
        ...

    def free_bytes(self) -> int | None:
        """Room left where the log writes, None when that is not this machine's disk."""
        ...


class PublicLog(Protocol):
    """Publishes to the topics of downstream services; at least once."""

    async def publish(self, records: Sequence[PublicRecord]) -> None:
        """
        Append `records` in this order; those of one key stay in it.

        When this returns all are acknowledged by the in-sync replicas. After an error any of
        them may be there. Raises: LogUnavailableError, PermanentError (refused for good).
        """
        ...


class Operation(StrEnum):
    """One kind of request to Splio; a label in metrics and logs."""

    AUTHENTICATE = "authenticate"
    POST_ORDER = "post_order"
    READ_ORDER = "read_order"
    UPDATE_ORDER = "update_order"
    CREDIT = "credit"
    LIST_POINTS = "list_points"
    CREATE_CONTACT = "create_contact"
    CREATE_PRODUCT = "create_product"
    CREATE_STORE = "create_store"
    READ_CONTACT = "read_contact"
    READ_MEMBER = "read_member"
    READ_BALANCE = "read_balance"
    READ_PROGRAM = "read_program"
    CREATE_MEMBER = "create_member"
    GRANT = "grant"
    LIST_GRANTS = "list_grants"


@dataclass(frozen=True, slots=True)
class Reserved:
    """
    Slots of a lane of Splio, one an interval after the other.

    `first_s` is on this process' monotonic clock, and off by `margin_s` at most. Slots that are
    not `is_taken` were too far ahead, and are still anybody's.
    """

    first_s: float
    margin_s: float = 0.0
    is_taken: bool = True


class Permit(Protocol):
    """Leave to send one request in one lane; used up by the request or handed back."""

    lane: Lane

    def hand_back(self) -> None:
        """The request will not be sent; the next waiter may have its place."""
        ...


@dataclass(frozen=True, slots=True)
class Accepted:
    """Splio took the request: 2xx, read and believed."""

    status: int


@dataclass(frozen=True, slots=True)
class AlreadyExists:
    """Splio knows this external id; whether what it holds is ours is to be compared."""

    status: int


@dataclass(frozen=True, slots=True)
class Missing:
    """Splio refused because this contact, product or store does not exist; nothing was done."""

    kind: PrerequisiteKind
    name: str | None
    status: int


@dataclass(frozen=True, slots=True)
class UnknownCard:
    """Splio knows no member with this card; nothing was booked."""

    status: int


Answer = Accepted | AlreadyExists | Missing | UnknownCard


class OrderMatch(StrEnum):
    """What Splio holds under an order's external id, compared with what we would post."""

    ABSENT = "absent"
    EQUAL = "equal"
    CART = "cart"
    CART_WITHOUT_CARD = "cart_without_card"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class OrderComparison:
    """The result of reading an order back; `detail` names the fields that differ, no values."""

    match: OrderMatch
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CreditPage:
    """Contexts of credits in Splio's points ledger, oldest first, and where to go on."""

    contexts: tuple[str, ...]
    cursor: str | None
    is_last: bool


class Splio(Protocol):
    """
    Requests to the Splio customer platform, each with time limits and typed results.

    Errors of every method: RetryableError (nothing took effect), PermanentError (a documented
    refusal), LanePausedError (an undocumented refusal), InDoubtError (it may have taken effect).
    """

    async def permit(self, lane: Lane) -> Permit:
        """Wait until the limiter has room in `lane` and the breaker lets requests through."""
        ...

    async def post_order(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Answer:
        """
        Post an order (Accepted, AlreadyExists, Missing).

        `deadline_s` is a monotonic time: a request not begun by then is not begun
        (RetryableError `deadline_passed`), one begun is given up then (InDoubtError).
        """
        ...

    async def credit(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Answer:
        """Book points (Accepted, UnknownCard); deadline as in `post_order`."""
        ...

    async def create(self, prerequisite: Prerequisite, *, traceparent: str) -> None:
        """
        Create a contact, product or store; one that exists already is fine. Takes its own permit
        and does not ask twice at the same time for the same one.
        """
        ...

    async def compare_order(self, request: RenderedRequest, *, traceparent: str) -> OrderComparison:
        """Read the order that `request` would create and compare total, lines and card."""
        ...

    async def complete_cart(self, request: RenderedRequest, *, traceparent: str) -> Answer:
        """
        Turn the abandoned cart under the order's external id into this order (PATCH).

        Accepted; Missing, as an order may have more products than its cart had.
        """
        ...

    async def count_credits(
        self, request: RenderedRequest, *, key: EffectKey, traceparent: str
    ) -> int:
        """How often Splio's points ledger shows a credit whose context is `key`."""
        ...

    async def list_credits(self, *, after: str | None) -> CreditPage:
        """A page of credits in the order Splio made them, beginning after the cursor."""
        ...
