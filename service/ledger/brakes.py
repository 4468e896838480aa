"""Lanes, or intake, that stand still until a person releases them."""

from typing import Final

from service.domain.ledger import Brake
from service.ledger.database import Connection
from service.ledger.transaction import Tx

# Guarantees: a brake that is set keeps its first reason and time.
_SET: Final = (
    "INSERT INTO brakes (lane, reason, since) VALUES (?, ?, ?) ON CONFLICT (lane) DO UPDATE SET "
    "reason = excluded.reason, since = excluded.since, released_at = NULL, released_by = NULL "
    "WHERE brakes.released_at IS NOT NULL"
)
_RELEASE: Final = (
    "UPDATE brakes SET released_at = ?, released_by = ? WHERE lane = ? AND released_at IS NULL"
)
_READ: Final = "SELECT lane, reason, since FROM brakes WHERE released_at IS NULL ORDER BY lane"


def read_brakes(connection: Connection) -> list[Brake]:
    """What stands still."""
    return [
        Brake(lane, reason, since) for lane, reason, since in connection.execute(_READ).fetchall()
    ]


def set_brake(tx: Tx, lane: str, reason: str) -> None:
    tx.connection.execute(_SET, (lane, reason, tx.now_ms))


def release_brake(tx: Tx, lane: str, *, by: str) -> bool:
    """Release it; False when it was not set."""
    return tx.connection.execute(_RELEASE, (tx.now_ms, by, lane)).rowcount == 1
