"""How effects, requests and attempts stand in the tables."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import orjson

from service.domain.effects import (
    EffectKey,
    Kind,
    Lane,
    Prerequisite,
    PrerequisiteKind,
    RenderedRequest,
    State,
)
from service.domain.errors import NotFoundError
from service.domain.ledger import ReadyEffect
from service.ledger.database import BYTES, INTEGER, TEXT, Connection, KeyStatement, Query, RowInsert
from service.ledger.outbox import note_outcomes
from service.ledger.transaction import ConcurrentChangeError, Tx

MAX_INTEGER: Final = 2**63 - 1


_AT_SPLIO: Final = frozenset({State.ATTEMPTING, State.IN_DOUBT, State.APPLIED, State.DUPLICATE})


class Standing(NamedTuple):
    """Where an effect stands, as read inside the writer's transaction."""

    id: int
    key: EffectKey
    kind: str
    state: str
    attempt: int
    due_at: int
    lease_until: int | None
    started_at: int | None
    first_attempt_at: int | None
    created_at: int
    was_in_doubt: int
    applied_attempt: int | None
    rounds: int
    body_id: int | None
    seen_at: int | None

    @property
    def may_be_at_splio(self) -> bool:
        """
        Whether Splio has taken it or may have: by an attempt of this ledger, or perhaps of one
        that it was recovered of. What was refused, or never left us, it has not.
        """
        return bool(self.was_in_doubt) or self.state in _AT_SPLIO


# Guarantees: what it reads cannot change before the transaction ends.
_READ_STANDINGS: Final = Query(
    ["effect_key" if name == "key" else name for name in Standing._fields],
    "FROM effects WHERE effect_key IN (:keys)",
    locked="effect_key",
)


def read_standings(tx: Tx, keys: Sequence[str]) -> dict[str, Standing]:
    """Where these effects stand; unknown keys are missing."""
    rows = _READ_STANDINGS.rows_for(tx.connection, keys)
    return {row[1]: Standing._make(row) for row in rows}


def read_standing(tx: Tx, key: str) -> Standing:
    """Raises: NotFoundError."""
    standing = read_standings(tx, [key]).get(key)
    if standing is None:
        raise NotFoundError("no_such_effect", key)
    return standing


# The columns that make a ReadyEffect, of `effects AS e JOIN bodies AS b`.
READY_COLUMNS: Final = (
    "e.body_id, e.effect_key, e.kind, e.lane, e.order_key, e.event_id, e.traceparent, e.points, "
    "e.received_at, b.path, b.body, b.idempotency_key, b.prerequisites"
)
READY_WIDTH: Final = READY_COLUMNS.count(",") + 1


def ready_effect(row: Sequence[Any]) -> ReadyEffect:
    """From a row that begins with READY_COLUMNS."""
    body_id, key, kind, lane, order_key, event_id, traceparent, points, received_at = row[:9]
    path, body, idempotency_key, prerequisites = row[9:READY_WIDTH]
    return ReadyEffect(
        key=EffectKey(key),
        kind=Kind(kind),
        lane=Lane(lane),
        order_key=order_key,
        event_id=event_id,
        traceparent=traceparent,
        points=points,
        received_at_ms=received_at,
        request=RenderedRequest(
            path=path,
            body=body,
            idempotency_key=idempotency_key,
            prerequisites=decode_prerequisites(prerequisites),
        ),
        request_id=body_id,
    )


def encode_prerequisites(prerequisites: Sequence[Prerequisite]) -> str | None:
    """As JSON text, None when there are none."""
    if not prerequisites:
        return None
    return orjson.dumps(
        [[item.kind, item.name, item.path, item.body.decode()] for item in prerequisites]
    ).decode()


def decode_prerequisites(text: str | None) -> tuple[Prerequisite, ...]:
    """The inverse of `encode_prerequisites`."""
    if text is None:
        return ()
    return tuple(
        Prerequisite(PrerequisiteKind(kind), name, path, body.encode())
        for kind, name, path, body in orjson.loads(text)
    )


# Guarantees: a key that exists already fails the statement (UNIQUE), never overwrites.
INSERT_EFFECTS: Final = RowInsert(
    "effects",
    {
        "effect_key": TEXT,
        "kind": TEXT,
        "lane": TEXT,
        "order_key": TEXT,
        "after": TEXT,
        "fingerprint": TEXT,
        "state": TEXT,
        "due_at": INTEGER,
        "reason": TEXT,
        "event_id": TEXT,
        "traceparent": TEXT,
        "points": INTEGER,
        "received_at": INTEGER,
        "created_at": INTEGER,
        "settled_at": INTEGER,
        "first_attempt_at": INTEGER,
        "absence_counts_from": INTEGER,
        "was_in_doubt": INTEGER,
        "body_id": INTEGER,
        "record_id": INTEGER,
    },
)
# Guarantees: bodies are only ever appended.
INSERT_BODIES: Final = RowInsert(
    "bodies",
    {
        "id": INTEGER,
        "effect_key": TEXT,
        "path": TEXT,
        "body": BYTES,
        "idempotency_key": TEXT,
        "prerequisites": TEXT,
    },
)
_INSERT_ATTEMPTS: Final = RowInsert(
    "attempts",
    {
        "id": INTEGER,
        "effect_id": INTEGER,
        "attempt": INTEGER,
        "started_at": INTEGER,
        "ended_at": INTEGER,
        "outcome": TEXT,
        "result": TEXT,
        "reason": TEXT,
        "status": INTEGER,
        "detail": TEXT,
        "by": TEXT,
    },
)


class AttemptNote(NamedTuple):
    """A line of the audit trail, its time and id still to come."""

    effect_id: int
    attempt: int
    started_at: int | None
    outcome: str
    result: str
    reason: str | None = None
    status: int | None = None
    detail: str = ""
    by: str | None = None


def note_attempts(tx: Tx, notes: Sequence[AttemptNote]) -> None:
    """Append to the audit trail."""
    _INSERT_ATTEMPTS.run(
        tx.connection,
        [
            (
                tx.id(),
                note.effect_id,
                note.attempt,
                note.started_at,
                tx.now_ms,
                note.outcome,
                note.result,
                note.reason,
                note.status,
                note.detail,
                note.by,
            )
            for note in notes
        ],
    )


# Guarantees: only effects that still wait are moved.
# One that may be at Splio already (a recovered ledger) is looked up before it is sent.
_RELEASE_FOLLOWERS: Final = KeyStatement(
    "UPDATE effects SET state = CASE WHEN absence_counts_from IS NULL THEN 'due' "
    "ELSE 'in_doubt' END, due_at = ? WHERE state = 'blocked' AND after IN (:keys)"
)
# What a refund owes its customer is not given up with the debit that it waits for.
_VOID_FOLLOWERS: Final = KeyStatement(
    "UPDATE effects SET state = CASE kind WHEN 'refund' THEN 'held' ELSE 'void' END, "
    "settled_at = CASE kind WHEN 'refund' THEN NULL ELSE ?1 END, "
    "reason = 'predecessor_not_applied' "
    "WHERE state = 'blocked' AND after IN (:keys) RETURNING effect_key, state"
)


def release_followers(tx: Tx, keys: Sequence[str]) -> None:
    """Make due what waited for these keys."""
    if not tx.memory.has_followers:
        return
    _RELEASE_FOLLOWERS.run(tx.connection, keys, tx.now_ms)


def void_followers(tx: Tx, keys: Sequence[str]) -> None:
    """Void what waited for these keys, and what waited for that."""
    waited_for = list(keys) if tx.memory.has_followers else []
    while waited_for:
        rows = _VOID_FOLLOWERS.raw_rows(tx.connection, waited_for, tx.now_ms)
        waited_for = [key for key, state in rows if state == State.VOID]
        note_outcomes(tx, waited_for)


def follower_state(tx: Tx, after: EffectKey, predecessor: str | None) -> State:
    """
    The state of a follower whose predecessor `after` is in that state, None when it is not known.

    An unknown one has no row that could be locked. So nobody else plans until this transaction
    ends: another process would insert and settle it, and not see who waits for it.
    Raises: ConcurrentChangeError when it was inserted just now.
    """
    if predecessor is None and tx.plan_alone() and read_standings(tx, [after]):
        raise ConcurrentChangeError
    if predecessor in {State.APPLIED, State.DUPLICATE}:
        return State.DUE
    if predecessor in {State.REJECTED, State.VOID}:
        return State.VOID
    tx.memory.has_followers = True
    return State.BLOCKED


def change_one(connection: Connection, text: str, parameters: Sequence[Any]) -> None:
    """
    Run a guarded UPDATE whose guard is known to hold.

    Raises: RuntimeError when it changed no row, which only a bug can cause, as the row was read
    in the same transaction; the transaction is rolled back by it.
    """
    if connection.execute(text, parameters).rowcount != 1:
        raise RuntimeError(f"the guard of a transition did not hold: {text}")
