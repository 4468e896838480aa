"""Which of the processes does a chore, by leases that go by the database's clock."""

from typing import Final

from service.domain.ledger import Chore
from service.ledger.transaction import Tx

# Guarantees: one owner at a time; only its own lease, or one that ran out, is taken.
_HOLD: Final = (
    "INSERT INTO duties (duty, owner, until) VALUES (?, ?, ?) ON CONFLICT (duty) DO UPDATE SET "
    "owner = excluded.owner, until = excluded.until "
    "WHERE duties.owner = excluded.owner OR duties.until <= ?"
)
_RELEASE: Final = "DELETE FROM duties WHERE owner = ?"


def hold(tx: Tx, chore: Chore, *, lease_ms: int) -> bool:
    """See the port."""
    parameters = (chore.value, tx.config.owner, tx.now_ms + lease_ms, tx.now_ms)
    return tx.connection.execute(_HOLD, parameters).rowcount == 1


def release_all(tx: Tx) -> None:
    """See the port."""
    tx.connection.execute(_RELEASE, (tx.config.owner,))
