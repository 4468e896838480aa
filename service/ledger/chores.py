"""Chores: counting what is open, and removing what is past its retention in bounded bites."""

from collections.abc import Callable, Sequence
from typing import Final

import orjson

from service.domain.effects import SETTLED_STATES, Kind, State
from service.domain.ledger import PurgeReport, Tally
from service.ledger import collects, holds
from service.ledger.database import Connection, KeyStatement
from service.ledger.rows import read_standings
from service.ledger.transaction import Tx, first_id_at

# Reads the index only and in its order; its size follows the open work. A column per kind spares
# the sorting of `GROUP BY state, kind` (measured: a third of the time with 190,000 open).
_COUNT_OPEN: Final = (
    "SELECT state, "
    + ", ".join(
        f"count(*) FILTER (WHERE kind = '{kind}'), min(received_at) FILTER (WHERE kind = '{kind}')"
        for kind in Kind
    )
    + " FROM effects INDEXED BY effects_unfinished WHERE state <> 'applied' "
    "AND state IN ('blocked', 'due', 'attempting', 'in_doubt', 'held') GROUP BY state"
)
_COUNT_OPEN_DEAD_LETTERS: Final = (
    "SELECT count(*) FROM dead_letters INDEXED BY dead_letters_open "
    "WHERE replayed_at IS NULL AND dismissed_at IS NULL"
)
_COUNT_UNSEEN: Final = (
    "SELECT count(*), min(settled_at) FROM effects INDEXED BY effects_unseen "
    "WHERE state = 'applied' AND kind IN ('earn', 'refund') AND seen_at IS NULL"
)
_OLDEST_UNSHOWN: Final = (
    "SELECT min(settled_at) FROM effects INDEXED BY effects_unshown "
    "WHERE state = 'applied' AND kind = 'debit' AND seen_at IS NULL"
)
_COUNT_OUTBOX: Final = "SELECT count(*), min(at) FROM outbox"

_OLD_BODIES: Final = (
    "SELECT id, effect_key FROM bodies WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
)
_OLD_ATTEMPTS: Final = (
    "SELECT a.id, e.effect_key FROM attempts AS a CROSS JOIN effects AS e ON e.id = a.effect_id "
    "WHERE a.id >= ? AND a.id < ? ORDER BY a.id LIMIT ?"
)
_OLD_RECORDS: Final = _OLD_BODIES.replace("bodies", "records").replace("effect_key", "effect_keys")
_OLD_ORDERS: Final = _OLD_BODIES.replace("bodies", "orders").replace("effect_key", "order_key")
_DEAD_LETTERS: Final = (
    "SELECT id, last_seen_at FROM dead_letters WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
)
_DELETE_BODIES: Final = KeyStatement("DELETE FROM bodies WHERE id IN (:keys)")
_DELETE_ATTEMPTS: Final = KeyStatement("DELETE FROM attempts WHERE id IN (:keys)")
_DELETE_ORDERS: Final = KeyStatement("DELETE FROM orders WHERE id IN (:keys)")
# Guarantees: one that another process has just seen again stays.
_DELETE_DEAD_LETTERS: Final = KeyStatement(
    "DELETE FROM dead_letters WHERE last_seen_at < ? AND id IN (:keys)"
)
# Guarantees: a record lives as long as a dead letter that needs its bytes.
_DELETE_RECORDS: Final = KeyStatement(
    "DELETE FROM records WHERE NOT EXISTS "
    "(SELECT 1 FROM dead_letters WHERE record_id = records.id) AND id IN (:keys)"
)
# Old balances say nothing, and name cards. Guarantees: one that was asked for meanwhile stays, and
# with it the generation that keeps older ones away.
_IS_OLD: Final = "asked_at > -?1 AND asked_at < ?1"
_DELETE_BALANCES: Final = (
    f"DELETE FROM balances WHERE {_IS_OLD} "
    f"AND card IN (SELECT card FROM balances WHERE {_IS_OLD} LIMIT ?2)"
)
# Guarantees: an open hold stays.
_DELETE_HOLDS: Final = (
    "DELETE FROM holds WHERE id IN "
    "(SELECT id FROM holds WHERE id < ? AND ended_at IS NOT NULL ORDER BY id LIMIT ?)"
)
# Guarantees: one that is open stays, and finds its capture however late that comes.
_DELETE_WAITING: Final = (
    "DELETE FROM waiting_refunds WHERE effect_key IN "
    "(SELECT w.effect_key FROM waiting_refunds AS w CROSS JOIN effects AS e "
    "ON e.effect_key = w.effect_key WHERE w.since < ? AND e.settled_at IS NOT NULL LIMIT ?)"
)
_DELETE_COLLECTS: Final = (
    "DELETE FROM awaited_collects WHERE effect_key IN "
    "(SELECT effect_key FROM awaited_collects WHERE since < ? LIMIT ?)"
)
_BALANCES_MS: Final = 24 * 3_600_000
COLLECT_WITHIN_MS: Final = 24 * 3_600_000  # a collect that comes later alarms
_NO_END: Final = 2**63 - 1

Row = tuple[int, str]


def read_tally(connection: Connection, *, now_ms: int) -> Tally:
    """Counts of what is open."""
    open_effects: dict[tuple[Kind, State], int] = {}
    oldest_open: dict[Kind, int] = {}
    for state, *columns in connection.execute(_COUNT_OPEN).fetchall():
        for kind, count, oldest in zip(Kind, columns[::2], columns[1::2], strict=True):
            if count:
                open_effects[kind, State(state)] = count
                oldest_open[kind] = min(oldest, oldest_open.get(kind, oldest))
    (open_dead_letters,) = connection.execute(_COUNT_OPEN_DEAD_LETTERS).fetchone()
    unseen, oldest_unseen = connection.execute(_COUNT_UNSEEN).fetchone()
    (oldest_unshown,) = connection.execute(_OLDEST_UNSHOWN).fetchone()
    outbox, oldest_outbox = connection.execute(_COUNT_OUTBOX).fetchone()
    return Tally(
        open_effects,
        oldest_open,
        open_dead_letters,
        unseen,
        oldest_unseen,
        outbox,
        oldest_outbox,
        *holds.count_open(connection),
        collects.count_late(connection, now_ms - COLLECT_WITHIN_MS),
        oldest_unshown,
    )


class Purge:
    """
    Removes old rows, each bite going on where the one before ended; for the writer's thread.

    Rows that must stay are passed over and met again in the next round, so a bite is bounded
    also when nothing can be removed.
    """

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def bite(self, tx: Tx, limit: int) -> PurgeReport:
        """Look at `limit` rows of each table at most."""
        old_ms = tx.now_ms - round(tx.config.retention_s * 1000)
        old = first_id_at(old_ms)
        old_orders_ms = tx.now_ms - round(tx.config.orders_retention_s * 1000)
        old_orders = first_id_at(old_orders_ms)

        def last_seen_long_ago(rows: Sequence[tuple[int, int]]) -> list[int]:
            return [row_id for row_id, seen_at in rows if seen_at < old_ms]

        def of_settled(rows: Sequence[Row]) -> list[int]:
            settled = _settled(tx, [key for _, key in rows])
            return [row_id for row_id, key in rows if key in settled]

        def of_all_settled(rows: Sequence[Row]) -> list[int]:
            keys_of = {row_id: orjson.loads(keys) for row_id, keys in rows}
            settled = _settled(tx, [key for keys in keys_of.values() for key in keys])
            return [row_id for row_id, keys in keys_of.items() if settled.issuperset(keys)]

        def all_of(rows: Sequence[Row]) -> list[int]:
            return [row_id for row_id, _ in rows]

        # Dead letters first: the records they kept may go then.
        return PurgeReport(
            dead_letters=self._purge(
                tx, _DEAD_LETTERS, _DELETE_DEAD_LETTERS, last_seen_long_ago, _NO_END, limit, old_ms
            ),
            bodies=self._purge(tx, _OLD_BODIES, _DELETE_BODIES, of_settled, old, limit),
            attempts=self._purge(tx, _OLD_ATTEMPTS, _DELETE_ATTEMPTS, of_settled, old, limit),
            records=self._purge(tx, _OLD_RECORDS, _DELETE_RECORDS, of_all_settled, old, limit),
            orders=self._purge(tx, _OLD_ORDERS, _DELETE_ORDERS, all_of, old_orders, limit),
            balances=_delete(tx, _DELETE_BALANCES, tx.now_ms - _BALANCES_MS, limit),
            holds=_delete(tx, _DELETE_HOLDS, old_orders, limit),
            waiting_refunds=_delete(tx, _DELETE_WAITING, old_orders_ms, limit),
            collects=_delete(tx, _DELETE_COLLECTS, old_ms, limit),
        )

    def _purge(
        self,
        tx: Tx,
        query: str,
        delete: KeyStatement,
        removable: Callable[[Sequence[tuple[int, str]]], list[int]]
        | Callable[[Sequence[tuple[int, int]]], list[int]],
        end: int,
        limit: int,
        *guard: int,
    ) -> int:
        start = self._next.get(query, 0)
        rows = tx.connection.execute(query, (start, end, limit)).fetchall()
        self._next[query] = rows[-1][0] + 1 if len(rows) == limit else 0
        return delete.changed(tx.connection, removable(rows), *guard)


def _delete(tx: Tx, text: str, before: int, limit: int) -> int:
    return tx.connection.execute(text, (before, limit)).rowcount


def _settled(tx: Tx, keys: Sequence[str]) -> set[str]:
    """Which of these effects are settled; an unknown one cannot be open."""
    open_keys = {
        key
        for key, standing in read_standings(tx, list(dict.fromkeys(keys))).items()
        if standing.state not in SETTLED_STATES
    }
    return set(keys) - open_keys
