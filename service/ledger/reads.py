"""What intake and the dispatcher read: positions, order facts, effects that are ready."""

from collections.abc import Collection, Sequence
from typing import Final

import orjson

from service.domain.effects import EffectKey, Lane
from service.domain.ledger import ReadyEffect
from service.domain.planning import OrderFacts, PointsFrom
from service.domain.records import Stream, Topic
from service.ledger.database import Connection, KeyStatement, Query
from service.ledger.rows import READY_COLUMNS, ready_effect

_READ_POSITIONS: Final = 'SELECT topic, "partition", position FROM positions'
_READ_HORIZON: Final = (
    'SELECT topic, "partition", CASE WHEN recover_until > position THEN recover_until '
    "ELSE position END FROM positions"
)
_READ_FACTS: Final = KeyStatement(
    "SELECT order_key, card, points, points_from, currency, items FROM orders "
    "WHERE order_key IN (:keys)"
)
# Guarantees: nothing; the claim decides.
_READ_READY_KEYS: Final = Query(
    ["effect_key"],
    "FROM effects INDEXED BY effects_unfinished "
    "WHERE state <> 'applied' AND state = 'due' AND lane = ? AND due_at < ? "
    "ORDER BY due_at LIMIT ?",
)
_READ_READY: Final = KeyStatement(
    f"SELECT {READY_COLUMNS} FROM effects AS e CROSS JOIN bodies AS b ON b.id = e.body_id "
    "WHERE e.effect_key IN (:keys)"
)


def read_positions(connection: Connection) -> dict[Stream, int]:
    """All positions."""
    return _by_stream(connection, _READ_POSITIONS)


def read_horizon(connection: Connection) -> dict[Stream, int]:
    """See the port; all streams."""
    return _by_stream(connection, _READ_HORIZON)


def read_order_facts(connection: Connection, order_keys: Sequence[str]) -> dict[str, OrderFacts]:
    """Facts of the known ones of these orders."""
    return {
        order_key: OrderFacts(
            order_key=order_key,
            card=card,
            points=points,
            points_from=PointsFrom(points_from),
            currency=currency,
            items=tuple((item_id, amount) for item_id, amount in orjson.loads(items)),
        )
        for order_key, card, points, points_from, currency, items in _READ_FACTS.raw_rows(
            connection, order_keys
        )
    }


def read_ready(
    connection: Connection,
    *,
    lane: Lane,
    limit: int,
    due_before_ms: int,
    excluding: Collection[EffectKey],
) -> list[ReadyEffect]:
    """Effects of `lane` that became due before that time; see the port."""
    # The keys come out of the index alone; only what is wanted is read from the tables.
    rows = _READ_READY_KEYS.rows(connection, lane.value, due_before_ms, limit + len(excluding))
    keys = [key for (key,) in rows if key not in excluding][:limit]
    found = {row[1]: row for row in _READ_READY.raw_rows(connection, keys)}
    return [ready_effect(found[key]) for key in keys if key in found]


def _by_stream(connection: Connection, query: str) -> dict[Stream, int]:
    return {
        Stream(Topic(topic), number): position
        for topic, number, position in connection.execute(query).fetchall()
    }
