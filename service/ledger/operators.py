"""What operators see and change: effects, an order's timeline, release and reject."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from service.domain.effects import EffectKey, Kind, State, effect_key
from service.domain.errors import NotFoundError, WrongStateError
from service.domain.ledger import Page
from service.ledger.database import Connection, mappings
from service.ledger.dead_letters import dead_letters_of_order, set_effect_aside
from service.ledger.outbox import note_outcomes
from service.ledger.rows import (
    AttemptNote,
    change_one,
    follower_state,
    note_attempts,
    read_standing,
    read_standings,
    void_followers,
)
from service.ledger.transaction import Tx

_COLUMNS: Final = (
    "effect_key, kind, lane, order_key, after, fingerprint, state, attempt, due_at, lease_owner, "
    "lease_until, reason, event_id, traceparent, points, received_at, created_at, "
    "first_attempt_at, started_at, settled_at, seen_at, was_in_doubt, applied_attempt, "
    "absence_counts_from, resends, rounds, duplicates_seen"
)
_READ_EFFECT: Final = f"SELECT {_COLUMNS} FROM effects WHERE effect_key = ?"
# Effects of one order and kind: the key itself, and keys that go on after a colon.
_READ_OF_ORDER: Final = (
    f"{_READ_EFFECT} AND order_key = ? UNION ALL "
    f"SELECT {_COLUMNS} FROM effects WHERE effect_key > ? AND effect_key < ? AND order_key = ?"
)
_READ_OF_CALLS: Final = (
    f"SELECT {_COLUMNS} FROM effects INDEXED BY effects_of_calls "
    "WHERE kind IN ('capture', 'debit', 'refund', 'member') AND order_key = ?"
)
_READ_ATTEMPTS: Final = (
    "SELECT attempt, started_at, ended_at, outcome, result, reason, status, detail, by "
    "FROM attempts WHERE effect_id = (SELECT id FROM effects WHERE effect_key = ?) ORDER BY id"
)
_READ_FACTS: Final = (
    "SELECT card IS NOT NULL AS has_card, points, points_from, currency FROM orders "
    "WHERE order_key = ?"
)
_READ_WAIT: Final = "SELECT after, reason, absence_counts_from FROM effects WHERE effect_key = ?"
_GUARD: Final = "WHERE effect_key = ? AND state = ? AND attempt = ?"
# Guarantees: only from the standing that was read.
_RELEASE: Final = (
    "UPDATE effects SET state = ?, due_at = ?, settled_at = ?, reason = NULL, "
    "first_attempt_at = CASE WHEN absence_counts_from IS NULL THEN NULL ELSE first_attempt_at END, "
    f"resends = 0 {_GUARD}"
)
_REJECT: Final = (
    "UPDATE effects SET state = 'rejected', settled_at = ?, reason = 'by_operator' " + _GUARD
)


def list_effects(
    connection: Connection,
    tenant: str,
    *,
    states: Sequence[State],
    kind: Kind | None,
    order_id: str | None,
    limit: int,
    after: str | None,
) -> Page:
    """Effects by key order; see the port."""
    if order_id is not None:
        found = [
            row
            for row in _effects_of_order(connection, tenant, order_id)
            if (not states or row["state"] in states)
            and (kind is None or row["kind"] == kind)
            and (after is None or row["effect_key"] > after)
        ]
        return _page(found, limit)
    conditions = ["effect_key > ?"]
    parameters: list[Any] = [after or ""]
    if kind is not None:
        conditions.append("kind = ?")
        parameters.append(kind.value)
    index = ""
    if states:
        conditions.append(f"state IN ({', '.join('?' * len(states))})")
        parameters += [state.value for state in states]
        if State.APPLIED not in states:
            # Few are not applied, and all keys would be read from end to end for them.
            index = "INDEXED BY effects_unfinished"
            conditions.append("state <> 'applied'")
    elif kind is not None:
        prefix = effect_key(tenant, kind, "")
        conditions.append("effect_key >= ? AND effect_key < ?")
        parameters += [prefix, _end_of(prefix)]
    cursor = connection.execute(
        f"SELECT {_COLUMNS} FROM effects {index} WHERE {' AND '.join(conditions)} "
        "ORDER BY effect_key LIMIT ?",
        (*parameters, limit + 1),
    )
    return _page(mappings(cursor), limit)


def show_effect(connection: Connection, key: EffectKey) -> Mapping[str, Any]:
    """One effect with its audit trail. Raises: NotFoundError."""
    rows = mappings(connection.execute(_READ_EFFECT, (key,)))
    if not rows:
        raise NotFoundError("no_such_effect", key)
    return {**rows[0], "attempts": _attempts(connection, key)}


def show_order(connection: Connection, tenant: str, order_id: str) -> Mapping[str, Any]:
    """An order's effects with their attempts and its dead letters. Raises: NotFoundError."""
    effects = _effects_of_order(connection, tenant, order_id)
    dead_letters = dead_letters_of_order(connection, order_id)
    if not effects and not dead_letters:
        raise NotFoundError("no_such_order", order_id)
    facts = mappings(connection.execute(_READ_FACTS, (order_id,)))
    return {
        "order_id": order_id,
        "facts": facts[0] if facts else None,
        "effects": [
            {**row, "attempts": _attempts(connection, row["effect_key"])} for row in effects
        ],
        "dead_letters": dead_letters,
    }


def release(tx: Tx, key: EffectKey, *, by: str) -> None:
    """
    A held effect becomes due, or goes on waiting for the one before it. It is in doubt when what
    was sent was never looked up: it was rejected before that and planned again.
    """
    standing = read_standing(tx, key)
    if standing.state != State.HELD:
        raise WrongStateError("not_held", f"{key} is {standing.state}")
    state = State.DUE
    after, _, counts_from = tx.connection.execute(_READ_WAIT, (key,)).fetchone()
    if counts_from is not None:
        state = State.IN_DOUBT
    elif after is not None:
        predecessor = read_standings(tx, [after]).get(after)
        state = follower_state(tx, after, predecessor.state if predecessor else None)
        if state is State.VOID and standing.kind == Kind.REFUND:
            state = State.DUE  # what a refund owes its customer is not given up with a debit
    settled_at = tx.now_ms if state is State.VOID else None
    guard = (key, standing.state, standing.attempt)
    change_one(tx.connection, _RELEASE, (state.value, tx.now_ms, settled_at, *guard))
    if state is State.VOID:
        note_outcomes(tx, [key])
        void_followers(tx, [key])
    note_attempts(
        tx, [AttemptNote(standing.id, standing.attempt, None, "released", state.value, by=by)]
    )


def reject(tx: Tx, key: EffectKey, *, by: str) -> None:
    """A held or in-doubt effect becomes rejected, with a dead letter."""
    standing = read_standing(tx, key)
    if standing.state not in {State.HELD, State.IN_DOUBT}:
        raise WrongStateError("not_held_or_in_doubt", f"{key} is {standing.state}")
    _, reason, _ = tx.connection.execute(_READ_WAIT, (key,)).fetchone()
    guard = (key, standing.state, standing.attempt)
    change_one(tx.connection, _REJECT, (tx.now_ms, *guard))
    detail = f"was {standing.state}" + (f": {reason}" if reason else "")
    set_effect_aside(tx, key, reason="by_operator", detail=detail)
    note_outcomes(tx, [key])
    void_followers(tx, [key])
    note_attempts(
        tx,
        [
            AttemptNote(
                standing.id,
                standing.attempt,
                None,
                State.REJECTED,
                State.REJECTED,
                "by_operator",
                detail=detail,
                by=by,
            )
        ],
    )


def _effects_of_order(connection: Connection, tenant: str, order_id: str) -> list[dict[str, Any]]:
    """
    By the form of the keys, `tenant:kind:order` and `tenant:kind:order:…`, which spares an index;
    those of the checkout's calls name a transaction and have one.
    """
    found = mappings(connection.execute(_READ_OF_CALLS, (order_id,)))
    for kind in (Kind.ORDER, Kind.EARN):
        key = effect_key(tenant, kind, order_id)
        prefix = f"{key}:"
        cursor = connection.execute(
            _READ_OF_ORDER, (key, order_id, prefix, _end_of(prefix), order_id)
        )
        found += mappings(cursor)
    return sorted(found, key=lambda row: row["effect_key"])


def _end_of(prefix: str) -> str:
    """The first text after all that begin with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _attempts(connection: Connection, key: str) -> list[dict[str, Any]]:
    return mappings(connection.execute(_READ_ATTEMPTS, (key,)))


def _page(rows: list[dict[str, Any]], limit: int) -> Page:
    items = rows[:limit]
    return Page(items, items[-1]["effect_key"] if items and len(rows) > limit else None)
