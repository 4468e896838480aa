"""Dead letters: set aside once, counted when seen again, replayed or dismissed by a person."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import orjson

from service.domain.effects import EffectKey
from service.domain.errors import NotFoundError, WrongStateError
from service.domain.ledger import DeadLetter, Page, PlannedRecord
from service.ledger.database import BYTES, INTEGER, TEXT, Connection, RowInsert, mappings
from service.ledger.outbox import note_dead_letter
from service.ledger.transaction import Tx

EVENT_KIND: Final = "event"

INSERT_RECORDS: Final = RowInsert(
    "records",
    {
        "id": INTEGER,
        "topic": TEXT,
        "partition": INTEGER,
        "offset": INTEGER,
        "key": TEXT,
        "headers": TEXT,
        "value": BYTES,
        "appended_at": INTEGER,
        "event_type": TEXT,
        "effect_keys": TEXT,
    },
)
# Guarantees: one dead letter per dedupe key (UNIQUE); a repeat is found before it is inserted.
_COUNT_AGAIN: Final = (
    "UPDATE dead_letters SET times_seen = times_seen + 1, last_seen_at = ? WHERE dedupe_key = ?"
)
# Guarantees: the dead letter names its effect's own record, which is not copied.
_INSERT_OF_EFFECT: Final = (
    "INSERT INTO dead_letters (dedupe_key, kind, effect_key, order_key, event_id, reason, detail, "
    "record_id, at, last_seen_at) SELECT ?, kind, effect_key, order_key, event_id, ?, ?, "
    "record_id, ?, ? FROM effects WHERE effect_key = ?"
)
_INSERT: Final = (
    "INSERT INTO dead_letters (dedupe_key, kind, effect_key, order_key, event_id, reason, detail, "
    "record_id, at, last_seen_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
# Guarantee: of two persons only the first closes a dead letter.
_MARK_REPLAYED: Final = (
    "UPDATE dead_letters SET replayed_at = ?, replayed_by = ? "
    "WHERE id = ? AND replayed_at IS NULL AND dismissed_at IS NULL"
)
_MARK_DISMISSED: Final = (
    "UPDATE dead_letters SET dismissed_at = ?, dismissed_by = ? "
    "WHERE id = ? AND replayed_at IS NULL AND dismissed_at IS NULL"
)
# Guarantees: nobody is left to look at what has begun again.
_MARK_BEGUN_AGAIN: Final = (
    "UPDATE dead_letters SET replayed_at = ?, replayed_by = ? WHERE order_key = ? "
    "AND effect_key = ? AND kind <> ? AND replayed_at IS NULL AND dismissed_at IS NULL"
)
_COLUMNS: Final = (
    "d.id, d.kind, d.effect_key, d.order_key AS order_id, d.event_id, r.event_type, d.reason, "
    'd.detail, r.topic, r."partition", r."offset", d.at, d.times_seen, d.last_seen_at, '
    "d.replayed_at, d.replayed_by, d.dismissed_at, d.dismissed_by"
)
_FROM: Final = "FROM dead_letters AS d JOIN records AS r ON r.id = d.record_id"
_READ_ONE: Final = f"SELECT {_COLUMNS}, r.headers, r.value {_FROM} WHERE d.id = ?"
_READ_RECORD_ID: Final = "SELECT record_id FROM dead_letters WHERE id = ?"


def record_row(record_id: int, planned: PlannedRecord) -> tuple[Any, ...]:
    """The row of `records` that keeps what `planned` came from."""
    record = planned.record
    return (
        record_id,
        record.stream.topic.value,
        record.stream.partition,
        record.offset,
        # PostgreSQL keeps no NUL in text; only a foreign producer writes one.
        None if record.key is None else record.key.replace("\0", "\ufffd"),
        orjson.dumps(dict(record.headers)).decode(),
        record.value,
        record.appended_at_ms,
        planned.event_type,
        orjson.dumps([effect.key for effect in planned.plan.effects]).decode(),
    )


def insert_record(tx: Tx, planned: PlannedRecord) -> int:
    """Keep the record for a replay; returns its id."""
    record_id = tx.id()
    INSERT_RECORDS.run(tx.connection, [record_row(record_id, planned)])
    return record_id


def set_record_aside(
    tx: Tx, planned: PlannedRecord, *, reason: str, detail: str, effect_key: EffectKey | None = None
) -> bool:
    """
    Make a dead letter of a whole record, or count it when its content was set aside before.

    Returns: whether a new one was made.
    """
    dedupe_key = _content_key(planned, reason)
    if tx.connection.execute(_COUNT_AGAIN, (tx.now_ms, dedupe_key)).rowcount:
        return False
    tx.connection.execute(
        _INSERT,
        (
            dedupe_key,
            EVENT_KIND,
            effect_key,
            planned.plan.order_key,
            planned.event_id,
            reason,
            detail,
            insert_record(tx, planned),
            tx.now_ms,
            tx.now_ms,
        ),
    )
    note_dead_letter(tx, dedupe_key)
    return True


def set_effect_aside(tx: Tx, key: EffectKey, *, reason: str, detail: str) -> None:
    """Make a dead letter of a rejected effect; its record is referenced, not copied."""
    # An effect is rejected once per life, so there is nothing to compare.
    dedupe_key = f"effect:{tx.id()}"
    tx.connection.execute(
        _INSERT_OF_EFFECT, (dedupe_key, reason, detail, tx.now_ms, tx.now_ms, key)
    )
    note_dead_letter(tx, dedupe_key)


def record_id_of(tx: Tx, dead_letter_id: int) -> int:
    """The record that a dead letter came from. Raises: NotFoundError."""
    row = tx.connection.execute(_READ_RECORD_ID, (dead_letter_id,)).fetchone()
    if row is None:
        raise NotFoundError("no_such_dead_letter", str(dead_letter_id))
    record_id: int = row[0]
    return record_id


def mark_replayed(tx: Tx, dead_letter_id: int, *, by: str) -> None:
    _close(tx, _MARK_REPLAYED, dead_letter_id, by)


def mark_begun_again(tx: Tx, key: EffectKey, order_key: str, *, by: str) -> None:
    """Close what tells that this effect was rejected."""
    tx.connection.execute(_MARK_BEGUN_AGAIN, (tx.now_ms, by, order_key, key, EVENT_KIND))


def mark_dismissed(tx: Tx, dead_letter_id: int, *, by: str) -> None:
    _close(tx, _MARK_DISMISSED, dead_letter_id, by)


def read_dead_letter(connection: Connection, dead_letter_id: int) -> DeadLetter:
    """Raises: NotFoundError."""
    cursor = connection.execute(_READ_ONE, (dead_letter_id,))
    found = mappings(cursor)
    if not found:
        raise NotFoundError("no_such_dead_letter", str(dead_letter_id))
    row = found[0]
    return DeadLetter(
        id=row["id"],
        kind=row["kind"],
        effect_key=row["effect_key"],
        order_id=row["order_id"],
        event_id=row["event_id"],
        event_type=row["event_type"],
        reason=row["reason"],
        detail=row["detail"],
        topic=row["topic"],
        partition=row["partition"],
        offset=row["offset"],
        headers=orjson.loads(row["headers"]),
        record=row["value"],
        at_ms=row["at"],
        times_seen=row["times_seen"],
        replayed_at_ms=row["replayed_at"],
        dismissed_at_ms=row["dismissed_at"],
    )


def list_dead_letters(
    connection: Connection,
    *,
    reason: str | None,
    since_ms: int | None,
    until_ms: int | None,
    only_open: bool,
    limit: int,
    after: str | None,
) -> Page:
    """Dead letters without their bytes, by id; `until_ms` is not included."""
    conditions = ["d.id > ?"]
    parameters: list[Any] = [int(after) if after else 0]
    for condition, value in (
        ("d.reason = ?", reason),
        ("d.at >= ?", since_ms),
        ("d.at < ?", until_ms),
    ):
        if value is not None:
            conditions.append(condition)
            parameters.append(value)
    if only_open:
        conditions.append("d.replayed_at IS NULL AND d.dismissed_at IS NULL")
    cursor = connection.execute(
        f"SELECT {_COLUMNS} {_FROM} WHERE {' AND '.join(conditions)} ORDER BY d.id LIMIT ?",
        (*parameters, limit + 1),
    )
    rows = mappings(cursor)
    items = rows[:limit]
    return Page(items, str(items[-1]["id"]) if items and len(rows) > limit else None)


def dead_letters_of_order(connection: Connection, order_id: str) -> list[Mapping[str, Any]]:
    """An order's dead letters without their bytes, oldest first."""
    cursor = connection.execute(
        f"SELECT {_COLUMNS} {_FROM} WHERE d.order_key = ? ORDER BY d.id", (order_id,)
    )
    return list(mappings(cursor))


def _close(tx: Tx, text: str, dead_letter_id: int, by: str) -> None:
    if tx.connection.execute(text, (tx.now_ms, by, dead_letter_id)).rowcount:
        return
    record_id_of(tx, dead_letter_id)
    raise WrongStateError("dead_letter_closed", "it was replayed or dismissed before")


def _content_key(planned: PlannedRecord, reason: str) -> str:
    """
    The same for repeats of one content.

    What effects were planned from is in their fingerprints. Without effects the envelope's
    payload is compared: its id and times differ for each delivery.
    """
    plan = planned.plan
    digest = hashlib.sha256()
    if plan.effects:
        facts = sorted([effect.key, effect.fingerprint] for effect in plan.effects)
        digest.update(orjson.dumps(facts))
    else:
        digest.update(_payload(planned.record.value))
    return f"event:{reason}:{plan.order_key or ''}:{digest.hexdigest()}"


def _payload(value: bytes) -> bytes:
    """The payload when `value` is an envelope and its payload holds something, else `value`."""
    try:
        envelope = orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
    if isinstance(envelope, dict) and envelope.get("payload"):
        return orjson.dumps(envelope["payload"], option=orjson.OPT_SORT_KEYS)
    return value
