"""The outbox: notices written in the transaction of what they tell, until they are published."""

from collections.abc import Sequence
from typing import Any, Final

from service.domain.effects import Kind, State
from service.domain.notices import DeadLetterNotice, Notice, OutboxEntry, OutcomeNotice
from service.ledger.database import Connection, KeyStatement
from service.ledger.transaction import Tx

_OUTCOME: Final = "outcome"
_DEAD_LETTER: Final = "dead_letter"

# Guarantees: the notice tells what stands in the effect when the transaction commits.
_ADD_OUTCOMES: Final = KeyStatement(
    "INSERT INTO outbox (notice, effect_key, kind, order_key, outcome, reason, points, attempt, "
    "reference, event_id, at) SELECT 'outcome', e.effect_key, e.kind, e.order_key, e.state, "
    "e.reason, e.points, e.attempt, CASE WHEN e.body_id IS NULL OR e.attempt = 0 THEN NULL "
    "ELSE coalesce(b.idempotency_key, e.order_key) END, e.event_id, ?1 "
    "FROM effects AS e LEFT JOIN bodies AS b ON b.id = e.body_id WHERE e.effect_key IN (:keys)"
)
_ADD_DEAD_LETTER: Final = (
    "INSERT INTO outbox (notice, effect_key, kind, order_key, reason, event_id, at, "
    'dead_letter_id, event_type, topic, "partition", "offset") '
    "SELECT 'dead_letter', d.effect_key, d.kind, d.order_key, d.reason, d.event_id, d.at, d.id, "
    'r.event_type, r.topic, r."partition", r."offset" '
    "FROM dead_letters AS d JOIN records AS r ON r.id = d.record_id WHERE d.dedupe_key = ?"
)
_READ: Final = (
    "SELECT id, notice, effect_key, kind, order_key, outcome, reason, points, attempt, reference, "
    'event_id, at, dead_letter_id, event_type, topic, "partition", "offset" '
    "FROM outbox ORDER BY id LIMIT ?"
)
_REMOVE: Final = KeyStatement("DELETE FROM outbox WHERE id IN (:keys)")


def note_outcomes(tx: Tx, keys: Sequence[str]) -> None:
    """Tell downstream services how these effects were settled, as they stand now."""
    if keys and tx.config.publishes_notices:
        _ADD_OUTCOMES.run(tx.connection, keys, tx.now_ms)


def note_dead_letter(tx: Tx, dedupe_key: str) -> None:
    """Tell downstream services of a dead letter that was written just now."""
    if tx.config.publishes_notices:
        tx.connection.execute(_ADD_DEAD_LETTER, (dedupe_key,))


def read_outbox(connection: Connection, *, limit: int) -> list[OutboxEntry]:
    """See the port."""
    rows = connection.execute(_READ, (limit,)).fetchall()
    return [OutboxEntry(row[0], _notice(row[1:])) for row in rows]


def remove_published(tx: Tx, ids: Sequence[int]) -> None:
    """See the port."""
    _REMOVE.run(tx.connection, ids)


def _notice(row: Sequence[Any]) -> Notice:
    kind_of_notice, key, kind, order_id, outcome, reason, points, attempt, reference = row[:9]
    event_id, at_ms, dead_letter_id, event_type, topic, partition, offset = row[9:]
    if kind_of_notice == _OUTCOME:
        return OutcomeNotice(
            effect_key=key,
            kind=Kind(kind),
            order_id=order_id,
            outcome=State(outcome),
            reason=reason,
            points=points,
            attempt=attempt,
            reference=reference,
            event_id=event_id,
            settled_at_ms=at_ms,
        )
    assert kind_of_notice == _DEAD_LETTER, kind_of_notice
    return DeadLetterNotice(
        id=dead_letter_id,
        kind=kind,
        reason=reason,
        effect_key=key,
        order_id=order_id,
        event_id=event_id,
        event_type=event_type,
        topic=topic,
        partition=partition,
        offset=offset,
        at_ms=at_ms,
    )
