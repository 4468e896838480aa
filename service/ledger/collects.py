"""Points that SCAYLE Checkout collects: its call compared with the webhook of the order."""

from collections.abc import Mapping
from typing import Final

from service.domain.effects import contradicts
from service.domain.planning import Earn
from service.ledger.database import Connection
from service.ledger.transaction import Tx

# Guarantees: what the order's first webhook named stands.
_AWAIT: Final = (
    "INSERT INTO awaited_collects (effect_key, fingerprint, since) VALUES (?, ?, ?) "
    "ON CONFLICT (effect_key) DO NOTHING"
)
_READ_AWAITED: Final = "SELECT fingerprint FROM awaited_collects WHERE effect_key = ?"
_END_WAIT: Final = "DELETE FROM awaited_collects WHERE effect_key = ?"
_COUNT_LATE: Final = "SELECT count(*) FROM awaited_collects WHERE since < ?"


def agree(tx: Tx, earn: Earn, known: Mapping[str, tuple[str, str]]) -> bool:
    """
    Whether the webhook and the collect of an order name the same card and points, as far as the
    other one was here. Remembers that a webhook's order awaits its collect, and that it came.

    The first to reach the ledger stands. No other process plans until this transaction ends.
    """
    if earn.key in known:
        return not contradicts(known[earn.key][0], earn.fingerprint)
    if not earn.is_collect:
        tx.connection.execute(_AWAIT, (earn.key, earn.fingerprint, tx.now_ms))
        return True
    row = tx.connection.execute(_READ_AWAITED, (earn.key,)).fetchone()
    if row is not None and contradicts(row[0], earn.fingerprint):
        return False
    end_wait(tx, earn)
    return True


def end_wait(tx: Tx, earn: Earn) -> None:
    """The order's collect came, or a person has it booked."""
    tx.connection.execute(_END_WAIT, (earn.key,))


def count_late(connection: Connection, before_ms: int) -> int:
    """Orders whose webhook came before that time and whose collect has not come."""
    count: int = connection.execute(_COUNT_LATE, (before_ms,)).fetchone()[0]
    return count
