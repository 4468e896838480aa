"""What a ledger belongs to: tenant, universe, who books points. Written once, compared after."""

from secrets import token_hex
from typing import Final

from service.domain.errors import StartupError, WrongStateError
from service.domain.planning import PointsFrom
from service.ledger.config import LedgerConfig
from service.ledger.transaction import Tx
from service.ledger.writer import WriterConnection

# Guarantees: the first writer of a name stands; what is compared later was written once.
_WRITE_META: Final = "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING"
_CHANGE_META: Final = (
    "INSERT INTO meta (name, value) VALUES (?, ?) "
    "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
_COUNT_OPEN_BOOKINGS: Final = (
    "SELECT count(*) FROM effects INDEXED BY effects_unfinished "
    "WHERE state <> 'applied' AND kind = 'earn' AND settled_at IS NULL"
)
_READ_META: Final = "SELECT value FROM meta WHERE name = ?"

_HMAC_KEY: Final = "hmac_key"

_REMEDIES: Final = {
    "tenant": "set RELAY_TENANT back, or name another ledger: keys begin with the tenant",
    "points_from": "set RELAY_POINTS_FROM back; it changes only by `loyalty-relay points-from`, "
    "when no booking is open, because two ways at once would book twice",
    "universe": "set RELAY_SPLIO_URL back, or name another ledger: what was posted there is "
    "not posted here",
}


def check_meta(connection: WriterConnection, config: LedgerConfig) -> None:
    """
    Write what a new ledger belongs to, compare what an old one does.

    Raises: StartupError naming every difference and how to change it.
    """
    expected = {
        "tenant": config.tenant,
        "points_from": config.points_from.value if config.points_from else None,
        "universe": config.universe,
    }
    differences = []
    connection.begin()
    for name, value in expected.items():
        if value is None:
            continue
        connection.execute(_WRITE_META, (name, value))
        (known,) = connection.execute(_READ_META, (name,)).fetchone()
        if known != value:
            differences.append(
                f"{name} is {known!r} in the ledger and {value!r} in the settings: "
                f"{_REMEDIES[name]}"
            )
    if differences:
        connection.roll_back()
        raise StartupError("ledger_mismatch", "; ".join(differences))
    connection.commit()


def hmac_key(tx: Tx) -> bytes:
    """The secret that contact keys are hashed with: made once, the same for all processes."""
    tx.connection.execute(_WRITE_META, (_HMAC_KEY, token_hex(32)))
    (key,) = tx.connection.execute(_READ_META, (_HMAC_KEY,)).fetchone()
    return bytes.fromhex(key)


def change_points_from(tx: Tx, points_from: PointsFrom) -> None:
    """See `SqlLedger.change_points_from`."""
    (open_bookings,) = tx.connection.execute(_COUNT_OPEN_BOOKINGS).fetchone()
    if open_bookings:
        raise WrongStateError("bookings_open", f"{open_bookings} bookings are not settled yet")
    tx.connection.execute(_CHANGE_META, ("points_from", points_from.value))
