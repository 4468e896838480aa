"""The ledger's contract: who may attempt which effect, and what became of each."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from service.domain.effects import EffectKey, Kind, Lane, Outcome, RenderedRequest, State
from service.domain.notices import OutboxLedger
from service.domain.planning import OrderFacts, Plan
from service.domain.records import Advance, Record, Stream


@dataclass(frozen=True, slots=True)
class PlannedRecord:
    """One record with what planning made of it; `event_id` and times come from its envelope."""

    record: Record
    plan: Plan
    event_id: str
    event_type: str
    received_at_ms: int
    traceparent: str


class Disposition(StrEnum):
    """What the ledger did with a planned record."""

    PLANNED = "planned"  # its effects are in the ledger now
    REPEATED = "repeated"  # known with the same fingerprints, or set aside before: counted
    CONFLICT = "conflict"  # a known key with another fingerprint: a new dead letter
    DEAD_LETTER = "dead_letter"  # planning set it aside: a new dead letter
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class ReadyEffect:
    """
    An effect that may be claimed, with all that an attempt needs.

    `request_id` names the stored request: a claim with an outdated one is refused, so that an
    effect planned anew (a replay) is never attempted with its old bytes from somebody's memory.
    """

    key: EffectKey
    kind: Kind
    lane: Lane
    order_key: str
    event_id: str
    traceparent: str
    points: int
    received_at_ms: int
    request: RenderedRequest
    request_id: int


@dataclass(frozen=True, slots=True)
class PlanResult:
    """The disposition of one planned record and the effects that are due because of it."""

    disposition: Disposition
    fresh: tuple[ReadyEffect, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """
    The exclusive right to attempt `effect` until the lease ends; committed before it is given.

    `first_attempt_at_ms` is that of attempt 1. `was_in_doubt`: an earlier attempt ever was.
    `rounds`: how often something missing was created for it so far.
    """

    effect: ReadyEffect
    attempt: int
    lease_until_ms: int
    started_at_ms: int
    first_attempt_at_ms: int
    was_in_doubt: bool
    rounds: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """
    How an attempt ended. `detail` is redacted text for people.

    `due_at_ms` is needed with `retry`: not before that time. `is_round`: Splio named something
    missing, which does not count as a refusal.
    """

    outcome: Outcome
    reason: str | None = None
    status: int | None = None
    detail: str = ""
    due_at_ms: int | None = None
    is_round: bool = False


class SettleResult(StrEnum):
    """What recording an outcome did."""

    SETTLED = "settled"  # the effect moved as the outcome says
    STALE = "stale"  # the attempt had lost its claim; only the attempt was noted
    LATE = "late"  # the attempt had lost its claim, and its late success settled the effect
    SUSPECTED_DOUBLE = "suspected_double"  # another attempt had succeeded too


@dataclass(frozen=True, slots=True)
class Doubt:
    """
    An effect in doubt whose look-up is due.

    Absence counts only from `absence_counts_from_ms`; `resends` is how often it was proved
    absent and sent again.
    """

    effect: ReadyEffect
    attempt: int
    absence_counts_from_ms: int
    first_attempt_at_ms: int
    resends: int


class LookUpVerdict(StrEnum):
    """What a look-up showed, and so what becomes of the effect."""

    FOUND = "found"  # applied
    DIFFERENT = "different"  # Splio holds something else: rejected, dead letter
    ABSENT = "absent"  # due again, same bytes and idempotency key
    HOLD = "hold"  # absent, but may not be sent again by itself
    UNKNOWN = "unknown"  # no answer yet: asked again at `again_at_ms`


@dataclass(frozen=True, slots=True)
class LookUp:
    """The result of one look-up of a doubt."""

    verdict: LookUpVerdict
    reason: str | None = None
    detail: str = ""
    again_at_ms: int | None = None


class PlanLedger(Protocol):
    """
    What intake needs.

    All methods of the ledger raise LedgerUnavailableError when nothing was committed, or when it
    is not known: doing the same again is right in both cases.
    """

    async def positions(self, streams: Sequence[Stream]) -> Mapping[Stream, int]:
        """Where intake goes on; streams never read are missing in the answer."""
        ...

    async def horizon(self, streams: Sequence[Stream]) -> Mapping[Stream, int]:
        """
        How far nothing is planned as if it were new: where intake goes on, or, when that is
        further, where the records end that `recover` lets be planned in doubt.
        """
        ...

    async def order_facts(self, order_keys: Sequence[str]) -> Mapping[str, OrderFacts]:
        """What is known of these orders; unknown ones are missing in the answer."""
        ...

    async def record_plans(
        self, planned: Sequence[PlannedRecord], advances: Sequence[Advance]
    ) -> Sequence[PlanResult]:
        """
        Write the plans and the reader's positions in one transaction; results in their order.

        Per record, before anything of it is written: a known key with a contradicting
        fingerprint makes the whole record a dead letter (`conflict`); known keys with the same
        one are counted; unknown keys are inserted. A dead letter seen before (same reason, order
        and content) is counted, not repeated.
        Raises: WrongStateError `position_moved` when a stream is not at `from_position`
        (somebody else went on there); PermanentError `not_storable` when the database takes a
        value of one of them in no case. Nothing is written then.
        """
        ...


class DispatchLedger(Protocol):
    """What the dispatcher needs. Safe for concurrent tasks; claims are exclusive for all."""

    async def ready(
        self,
        lane: Lane,
        *,
        limit: int,
        due_before_ms: int,
        excluding: Collection[EffectKey] = frozenset(),
    ) -> Sequence[ReadyEffect]:
        """
        Effects of `lane` that became due before that time, the longest due first.

        Fewer than `limit` only when there are no more but those of `excluding`.
        """
        ...

    async def claim(self, effect: ReadyEffect, *, lease_s: float) -> Claim | None:
        """
        Take the right to attempt `effect` now; the caller already holds a permit.

        Returns: the claim (of this very `effect`, its request need not be read again) with its
            attempt number, raised by every claim; or None when the effect is not due, waits for
            another, is claimed already, or has another stored request by now.
        Durability: the claim is committed when this returns. No request precedes it.
        Expiry: a lease that runs out makes its effect in doubt, never due.
        """
        ...

    async def settle(self, claim: Claim, settlement: Settlement) -> SettleResult:
        """
        Record how the claimed attempt ended; one transaction with what follows from it.

        Compares and sets on (key, attempt): applied and duplicate release the followers,
        rejected voids them and makes a dead letter, in doubt sets when the look-up is due, retry
        makes the effect due again at `due_at_ms`. A late success of an older attempt still
        settles the effect; two successes are a suspected double.
        """
        ...

    async def make_due(self, key: EffectKey, attempt: int) -> bool:
        """
        End the round of an effect that waits after `attempt`: it is due now and the round counts.

        To be called when what it waited for was created, or refused for good; what merely could
        not be created now uses nothing up. False when the effect moved meanwhile.
        """
        ...


class DoubtLedger(Protocol):
    """What looking up needs."""

    async def expire_leases(self) -> int:
        """Put effects whose lease ran out in doubt; returns how many."""
        ...

    async def doubts(self, *, limit: int) -> Sequence[Doubt]:
        """Effects in doubt whose next look-up is due, the longest due first."""
        ...

    async def doubt(self, key: EffectKey) -> Doubt | None:
        """This effect if it is in doubt, whether or not its look-up is due."""
        ...

    async def record_look_up(self, doubt: Doubt, look_up: LookUp) -> State | None:
        """
        Write what a look-up showed; returns the new state, None when the effect had moved.

        Refuses (WrongStateError) an absence before `absence_counts_from_ms`.
        """
        ...

    async def credits_cursor(self) -> str | None:
        """Where the slow reader of Splio's points ledger goes on, None for the beginning."""
        ...

    async def mark_seen(self, keys: Sequence[str], cursor: str | None) -> int:
        """
        Mark these credits as seen at Splio and store the cursor; returns how many.

        One that is due or held all the same is in doubt from now on, so that it is looked up and
        not sent again; a rejected one will be when it is replayed, and one that is attempted or
        looked up now when that ends in anything but a success.
        """
        ...


@dataclass(frozen=True, slots=True)
class Brake:
    """What stands still until a person releases it: `lane` is a lane's name or `intake`."""

    lane: str
    reason: str
    since_ms: int


class BrakeLedger(Protocol):
    """Which lanes (or `intake`) a person must release; survives restarts."""

    async def brakes(self) -> Sequence[Brake]: ...

    async def set_brake(self, lane: str, reason: str) -> None: ...

    async def release_brake(self, lane: str, *, by: str) -> bool:
        """Release it; False when it was not set."""
        ...


@dataclass(frozen=True, slots=True)
class Tally:
    """
    Counts of what is open, cheap enough for every few seconds.

    `open_effects` maps (kind, state) to a count; `oldest_open_ms` maps kind to the time its
    oldest open effect was received. Times are milliseconds since the epoch.
    """

    open_effects: Mapping[tuple[Kind, State], int]
    oldest_open_ms: Mapping[Kind, int]
    open_dead_letters: int
    unseen_credits: int
    oldest_unseen_ms: int | None
    outbox: int = 0
    oldest_outbox_ms: int | None = None
    holds: int = 0
    held_points: int = 0
    oldest_hold_ms: int | None = None
    late_collects: int = 0
    oldest_unshown_ms: int | None = None


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """Rows removed by one purge."""

    bodies: int = 0
    records: int = 0
    dead_letters: int = 0
    orders: int = 0
    attempts: int = 0
    balances: int = 0
    holds: int = 0
    waiting_refunds: int = 0
    collects: int = 0


class ChoreLedger(Protocol):
    """What the chores need."""

    async def tally(self) -> Tally: ...

    async def purge(self, *, limit: int) -> PurgeReport:
        """
        Remove at most `limit` rows of each table that are past their retention.

        Keys are kept for ever; bodies and records of open effects are kept too.
        """
        ...

    def free_bytes(self) -> int | None:
        """Room left where the ledger writes, None when that is not this machine's disk."""
        ...


class Chore(StrEnum):
    """A chore that one of all processes on a ledger does."""

    LOOK_UP = "look_up"
    SEEN = "seen"
    OUTBOX = "outbox"
    PURGE = "purge"
    HOLDS = "holds"


class DutyLedger(Protocol):
    """
    Which process does a chore. It spares work: what makes a chore safe is the ledger's own
    compare-and-set, as a process that stood still may believe in its lease for too long.
    """

    async def hold_duty(self, chore: Chore, *, lease_s: float) -> bool:
        """
        Take the duty of `chore`, or keep it, for `lease_s` from now; False while another process
        has it.
        """
        ...

    async def release_duties(self) -> None:
        """Give all duties up, so that another process need not wait for the lease's end."""
        ...


@dataclass(frozen=True, slots=True)
class Recovery:
    """What `recover` did: effects put in doubt, or to be when they are released; records ahead."""

    effects_in_doubt: int
    records_to_read: int


class RecoveryLedger(Protocol):
    """Bringing a ledger right that is behind its log."""

    async def recover(self, since: Mapping[Stream, int], ends: Mapping[Stream, int]) -> Recovery:
        """
        Go on reading at `since`, or where the ledger is if that is earlier; what it does not know
        to be settled, and what records before `ends` ask for anew, is looked up before it is sent.

        No process may work on the ledger meanwhile. It can be repeated.
        """
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """A page of rows (each a flat mapping as DESIGN names its columns) and where to go on."""

    items: Sequence[Mapping[str, Any]]
    next: str | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record or effect set aside; `record` holds the original bytes, untouched."""

    id: int
    kind: str
    effect_key: EffectKey | None
    order_id: str | None
    event_id: str
    event_type: str
    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    headers: Mapping[str, str]
    record: bytes
    at_ms: int
    times_seen: int
    replayed_at_ms: int | None
    dismissed_at_ms: int | None


class OperatorLedger(Protocol):
    """
    What an operator looks at and changes. Every change names who made it (`by`).

    Raises: NotFoundError, WrongStateError.
    """

    async def list_effects(
        self,
        *,
        states: Sequence[State] = (),
        kind: Kind | None = None,
        order_id: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Page:
        """Effects by key order; `after` is the last key of the page before."""
        ...

    async def show_effect(self, key: EffectKey) -> Mapping[str, Any]:
        """One effect with `attempts`, its audit trail, oldest first."""
        ...

    async def show_order(self, order_id: str) -> Mapping[str, Any]:
        """An order's effects with their attempts and its dead letters: the timeline."""
        ...

    async def release(self, key: EffectKey, *, by: str) -> None:
        """A held effect becomes due, or in doubt when what was sent was never looked up."""
        ...

    async def reject(self, key: EffectKey, *, by: str) -> None:
        """A held or in-doubt effect becomes rejected, with a dead letter."""
        ...

    async def list_dead_letters(
        self,
        *,
        reason: str | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
        only_open: bool = False,
        limit: int = 50,
        after: str | None = None,
    ) -> Page:
        """Dead letters without their bytes, by id; `after` is the last id of the page before."""
        ...

    async def dead_letter(self, dead_letter_id: int) -> DeadLetter: ...

    async def replay(self, dead_letter_id: int, planned: PlannedRecord, *, by: str) -> PlanResult:
        """
        Write the new plan of a dead letter's record and mark it replayed, in one transaction.

        An effect that was rejected takes its new plan (state, request) and can be attempted
        again, after a look-up when a person rejected it while it was in doubt; effects that are
        known otherwise stay as they are.
        Raises: WrongStateError when the plan is again rejected or in conflict, or the dead
        letter was replayed or dismissed before.
        """
        ...

    async def dismiss(self, dead_letter_id: int, *, by: str) -> None: ...


class Ledger(
    PlanLedger,
    DispatchLedger,
    DoubtLedger,
    BrakeLedger,
    ChoreLedger,
    DutyLedger,
    OutboxLedger,
    RecoveryLedger,
    OperatorLedger,
    Protocol,
):
    """
    Decides which effects may be attempted. Safe for concurrent tasks and, distributed, processes.

    One contract suite runs on every implementation.
    """

    async def ping(self) -> None:
        """Return when the ledger answers; raises LedgerUnavailableError."""
        ...
