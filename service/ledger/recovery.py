"""Recovering a ledger that is behind its log: what it would send is looked up first."""

from collections.abc import Mapping
from typing import Final

from service.domain.effects import Kind
from service.domain.ledger import Recovery
from service.domain.records import Stream
from service.ledger.claims import absence_counts_from
from service.ledger.database import KeyStatement
from service.ledger.transaction import Tx

_BITE: Final = 5_000  # effects changed by one statement, as PostgreSQL ends one that takes long
_OPEN: Final = (
    "SELECT id FROM effects WHERE state <> 'applied' "
    "AND state IN ('blocked', 'due', 'attempting', 'in_doubt', 'held', 'rejected') AND kind = ?"
)
# Guarantees: what this ledger does not know to be settled may have been since the copy was made,
# so nothing of it is sent before Splio was asked; what waits keeps waiting and is looked up then.
_DOUBT: Final = KeyStatement(
    "UPDATE effects SET state = CASE state WHEN 'due' THEN 'in_doubt' "
    "WHEN 'attempting' THEN 'in_doubt' ELSE state END, due_at = ?1, absence_counts_from = ?2, "
    "first_attempt_at = coalesce(first_attempt_at, ?1), was_in_doubt = 1, resends = 0, "
    "lease_owner = NULL, lease_until = NULL WHERE id IN (:keys)"
)
# Guarantees: reading begins no later than it would have; records before `recover_until` are
# planned in doubt where they are not known.
_REWIND: Final = (
    'INSERT INTO positions (topic, "partition", position, updated_at, recover_until) '
    'VALUES (?1, ?2, ?3, ?5, ?4) ON CONFLICT (topic, "partition") DO UPDATE SET '
    "position = CASE WHEN positions.position < ?3 THEN positions.position ELSE ?3 END, "
    "updated_at = ?5, recover_until = CASE WHEN positions.recover_until > ?4 "
    "THEN positions.recover_until ELSE ?4 END"
)
_POSITION: Final = 'SELECT position FROM positions WHERE topic = ? AND "partition" = ?'


def recover(tx: Tx, since: Mapping[Stream, int], ends: Mapping[Stream, int]) -> Recovery:
    """See the port."""
    effects = 0
    for kind in Kind:
        counts_from = absence_counts_from(tx, kind, None)
        rows = tx.connection.execute(_OPEN, (kind.value,)).fetchall()
        ids = [row[0] for row in rows]
        for start in range(0, len(ids), _BITE):
            some = ids[start : start + _BITE]
            effects += _DOUBT.changed(tx.connection, some, tx.now_ms, counts_from)
    records = 0
    for stream, end in ends.items():
        name = (stream.topic.value, stream.partition)
        tx.connection.execute(_REWIND, (*name, since.get(stream, end), end, tx.now_ms))
        (position,) = tx.connection.execute(_POSITION, name).fetchone()
        records += max(0, end - position)
    return Recovery(effects_in_doubt=effects, records_to_read=records)
