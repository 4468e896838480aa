"""Effects in doubt: leases that ran out, look-ups and what they showed, credits seen at Splio."""

from collections.abc import Sequence
from typing import Any, Final

from service.domain.effects import EffectKey, Kind, State
from service.domain.errors import WrongStateError
from service.domain.ledger import Doubt, LookUp, LookUpVerdict
from service.ledger.claims import absence_counts_from
from service.ledger.database import Connection, KeyStatement
from service.ledger.dead_letters import set_effect_aside
from service.ledger.outbox import note_outcomes
from service.ledger.rows import (
    READY_COLUMNS,
    READY_WIDTH,
    AttemptNote,
    Standing,
    change_one,
    note_attempts,
    read_standings,
    ready_effect,
    release_followers,
    void_followers,
)
from service.ledger.transaction import Tx

_READ_LEASES: Final = (
    "SELECT effect_key FROM effects INDEXED BY effects_unfinished "
    "WHERE state <> 'applied' AND state = 'attempting' AND {condition} LIMIT 512"
)
_READ_EXPIRED: Final = _READ_LEASES.format(condition="lease_until <= ?")
_READ_FOREIGN: Final = _READ_LEASES.format(condition="lease_owner <> ?")
# Guarantees: each moves the effect only from the attempt whose lease or doubt was read.
_EXPIRE: Final = (
    "UPDATE effects SET state = 'in_doubt', due_at = ?, absence_counts_from = ?, reason = ?, "
    "was_in_doubt = 1, lease_owner = NULL, lease_until = NULL "
    "WHERE effect_key = ? AND state = 'attempting' AND attempt = ?"
)
# Guarantees: absence never counts sooner than a request that ended now could show; later is right.
_BRING_FORWARD: Final = (
    "UPDATE effects INDEXED BY effects_unfinished SET absence_counts_from = ? "
    "WHERE state <> 'applied' AND state = 'in_doubt' AND kind = ? AND absence_counts_from > ?"
)
_LONGEST_LEASE_MS: Final = 3_600_000  # far above any; what ends later was said by a wrong clock
_GUARD: Final = "WHERE effect_key = ? AND state = 'in_doubt' AND attempt = ?"
_FOUND: Final = (
    "UPDATE effects SET state = 'applied', settled_at = ?, reason = ?, applied_attempt = NULL, "
    f"seen_at = CASE WHEN kind IN ('earn', 'refund') THEN coalesce(seen_at, ?) "
    f"ELSE seen_at END {_GUARD}"
)
_DIFFERENT: Final = f"UPDATE effects SET state = 'rejected', settled_at = ?, reason = ? {_GUARD}"
# Guarantees: `absence_counts_from` is set for as long as an attempt may have taken effect and was
# not proved absent, also when a person rejected the effect meanwhile.
_ABSENT: Final = (
    "UPDATE effects SET state = 'due', due_at = ?, reason = ?, resends = resends + 1, "
    f"absence_counts_from = NULL {_GUARD}"
)
_HOLD: Final = f"UPDATE effects SET state = 'held', reason = ?, absence_counts_from = NULL {_GUARD}"
_ASK_AGAIN: Final = f"UPDATE effects SET due_at = ?, reason = coalesce(?, reason) {_GUARD}"

_READ_ABSENCE: Final = "SELECT absence_counts_from FROM effects WHERE effect_key = ?"
_DOUBT_COLUMNS: Final = (
    f"{READY_COLUMNS}, e.attempt, e.absence_counts_from, e.first_attempt_at, e.resends"
)
_READ_DUE_DOUBTS: Final = (
    f"SELECT {_DOUBT_COLUMNS} FROM effects AS e INDEXED BY effects_unfinished "
    "CROSS JOIN bodies AS b ON b.id = e.body_id "
    "WHERE e.state <> 'applied' AND e.state = 'in_doubt' AND e.due_at <= ? "
    "ORDER BY e.due_at, e.effect_key LIMIT ?"
)
_READ_DOUBT: Final = (
    f"SELECT {_DOUBT_COLUMNS} FROM effects AS e CROSS JOIN bodies AS b ON b.id = e.body_id "
    "WHERE e.effect_key = ? AND e.state = 'in_doubt'"
)

_CURSOR: Final = "credits_cursor"
_READ_CURSOR: Final = "SELECT value FROM meta WHERE name = ?"
_WRITE_CURSOR: Final = (
    "INSERT INTO meta (name, value) VALUES (?, ?) "
    "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
# Guarantees: what Splio shows is not sent before it was looked up, whatever we believed: it was
# proved absent too early, or planned by a ledger that knows nothing of it.
_DOUBT_SEEN: Final = KeyStatement(
    "UPDATE effects SET state = CASE state WHEN 'rejected' THEN state ELSE 'in_doubt' END, "
    "due_at = ?1, absence_counts_from = ?2, first_attempt_at = coalesce(first_attempt_at, ?1), "
    "was_in_doubt = 1 WHERE kind IN ('earn', 'refund') AND seen_at IS NULL "
    "AND state IN ('due', 'held', 'rejected') AND effect_key IN (:keys)"
)
# Guarantees: an effect is seen once. Also one whose outcome is not recorded yet: the reader may
# be faster than the dispatcher, and does not come by again.
_MARK_SEEN: Final = KeyStatement(
    "UPDATE effects SET seen_at = ? "
    "WHERE kind IN ('earn', 'refund') AND seen_at IS NULL AND effect_key IN (:keys)"
)


def expire_leases(tx: Tx) -> int:
    """Put effects whose lease ran out in doubt; returns how many."""
    return _expire(tx, _READ_EXPIRED, tx.now_ms, "lease_expired")


def expire_foreign_claims(tx: Tx) -> int:
    """
    Put what another process instance was attempting in doubt; returns how many.

    It died with its requests, at the latest now: the file belongs to one process. So no absence
    has to wait for a time that a clock named which was ahead of today's.
    """
    expired = _expire(tx, _READ_FOREIGN, tx.config.owner, "process_ended")
    for kind in Kind:
        latest = absence_counts_from(tx, kind, None) + _LONGEST_LEASE_MS
        tx.connection.execute(_BRING_FORWARD, (latest, kind.value, latest))
    return expired


def write_look_up(tx: Tx, doubt: Doubt, look_up: LookUp) -> State | None:
    """See the port."""
    key = doubt.effect.key
    standing = read_standings(tx, [key]).get(key)
    if standing is None or standing.state != State.IN_DOUBT or standing.attempt != doubt.attempt:
        return None
    verdict = look_up.verdict
    (counts_from,) = tx.connection.execute(_READ_ABSENCE, (key,)).fetchone()
    if verdict in {LookUpVerdict.ABSENT, LookUpVerdict.HOLD} and tx.now_ms < counts_from:
        raise WrongStateError(
            "absence_too_early", f"{key} may still appear until {counts_from}, now {tx.now_ms}"
        )
    guard = (key, doubt.attempt)
    state = _move(tx, standing, look_up, guard, counts_from)
    if state in {State.APPLIED, State.REJECTED}:
        note_outcomes(tx, [key])
    if verdict is not LookUpVerdict.UNKNOWN:
        note_attempts(
            tx,
            [
                AttemptNote(
                    standing.id,
                    doubt.attempt,
                    None,
                    f"look_up_{verdict}",
                    state,
                    look_up.reason,
                    None,
                    look_up.detail,
                )
            ],
        )
    return state


def mark_seen(tx: Tx, keys: Sequence[str], cursor: str | None) -> int:
    """See the port."""
    # Locked, so that none becomes due between the two statements.
    read_standings(tx, keys)
    _DOUBT_SEEN.changed(tx.connection, keys, tx.now_ms, absence_counts_from(tx, Kind.EARN, None))
    changed = _MARK_SEEN.changed(tx.connection, keys, tx.now_ms)
    if cursor is not None:
        tx.connection.execute(_WRITE_CURSOR, (_CURSOR, cursor))
    return changed


def read_cursor(connection: Connection) -> str | None:
    """Where the slow reader goes on."""
    row = connection.execute(_READ_CURSOR, (_CURSOR,)).fetchone()
    return row[0] if row else None


def read_due_doubts(connection: Connection, now_ms: int, limit: int) -> list[Doubt]:
    """Effects in doubt whose look-up is due, the longest due first."""
    rows = connection.execute(_READ_DUE_DOUBTS, (now_ms, limit)).fetchall()
    return [_doubt(row) for row in rows]


def read_doubt(connection: Connection, key: EffectKey) -> Doubt | None:
    """The effect if it is in doubt."""
    row = connection.execute(_READ_DOUBT, (key,)).fetchone()
    return _doubt(row) if row else None


def _doubt(row: tuple[Any, ...]) -> Doubt:
    attempt, counts_from, first_attempt_at, resends = row[READY_WIDTH:]
    return Doubt(
        effect=ready_effect(row),
        attempt=attempt,
        absence_counts_from_ms=counts_from,
        first_attempt_at_ms=first_attempt_at,
        resends=resends,
    )


def _expire(tx: Tx, query: str, parameter: int | str, reason: str) -> int:
    expired = 0
    while True:
        keys = [row[0] for row in tx.connection.execute(query, (parameter,)).fetchall()]
        if not keys:
            return expired
        notes = []
        for standing in read_standings(tx, keys).values():
            if standing.state != State.ATTEMPTING or (
                query is _READ_EXPIRED and (standing.lease_until or 0) > tx.now_ms
            ):
                continue  # settled, or claimed again, before it was locked here
            counts_from = absence_counts_from(tx, standing.kind, standing.lease_until)
            change_one(
                tx.connection,
                _EXPIRE,
                (tx.now_ms, counts_from, reason, standing.key, standing.attempt),
            )
            notes.append(
                AttemptNote(
                    standing.id,
                    standing.attempt,
                    standing.started_at,
                    State.IN_DOUBT,
                    State.IN_DOUBT,
                    reason,
                )
            )
        note_attempts(tx, notes)
        expired += len(notes)


def _move(
    tx: Tx, standing: Standing, look_up: LookUp, guard: tuple[EffectKey, int], counts_from: int
) -> State:
    match look_up.verdict:
        case LookUpVerdict.FOUND:
            change_one(tx.connection, _FOUND, (tx.now_ms, look_up.reason, tx.now_ms, *guard))
            release_followers(tx, [standing.key])
            return State.APPLIED
        case LookUpVerdict.DIFFERENT:
            reason = look_up.reason or "mismatch"
            change_one(tx.connection, _DIFFERENT, (tx.now_ms, reason, *guard))
            set_effect_aside(tx, standing.key, reason=reason, detail=look_up.detail)
            void_followers(tx, [standing.key])
            return State.REJECTED
        case LookUpVerdict.ABSENT | LookUpVerdict.HOLD if standing.seen_at is not None:
            # The slow reader has seen it since Splio was asked.
            later = absence_counts_from(tx, standing.kind, None)
            change_one(tx.connection, _ASK_AGAIN, (later, "seen", *guard))
            return State.IN_DOUBT
        case LookUpVerdict.ABSENT:
            change_one(tx.connection, _ABSENT, (tx.now_ms, look_up.reason, *guard))
            return State.DUE
        case LookUpVerdict.HOLD:
            change_one(tx.connection, _HOLD, (look_up.reason, *guard))
            return State.HELD
        case LookUpVerdict.UNKNOWN:
            again_at = look_up.again_at_ms
            if again_at is None:
                again_at = max(counts_from, tx.now_ms)
            change_one(tx.connection, _ASK_AGAIN, (again_at, look_up.reason, *guard))
            return State.IN_DOUBT
