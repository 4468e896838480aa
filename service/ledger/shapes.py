"""What SCAYLE's requests look like, as the doors wrote it: opaque here."""

from collections.abc import Sequence
from typing import Final

from service.ledger.database import Connection
from service.ledger.transaction import Tx

# Guarantees: an older shape never takes the place of a younger one.
_WRITE: Final = (
    "INSERT INTO shapes (source, shape, seen_at) VALUES (?, ?, ?) ON CONFLICT (source) DO UPDATE "
    "SET shape = excluded.shape, seen_at = excluded.seen_at "
    "WHERE shapes.seen_at < excluded.seen_at"
)
_READ: Final = "SELECT shape FROM shapes ORDER BY source"


def write_shapes(tx: Tx, shapes: Sequence[tuple[str, str, int]]) -> None:
    """Keep each (source, JSON, time) unless a younger one is there."""
    for shape in shapes:
        tx.connection.execute(_WRITE, shape)


def read_shapes(connection: Connection) -> list[str]:
    """The JSON of each, by source."""
    return [shape for (shape,) in connection.execute(_READ).fetchall()]
