"""Looks into the service's files from outside, while it runs or after it was killed."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from service.domain.effects import OPEN_STATES, SETTLED_STATES

_OFFSET_BITS: Final = 48  # of a record's position in the log; above them is its stream

_OPEN: Final = f"SELECT count(*) FROM effects WHERE state IN {tuple(map(str, OPEN_STATES))}"
_PLANNED: Final = "SELECT order_key FROM orders"
_ENDS: Final = f"""
    SELECT topic, partition, max(first_offset, coalesce(
        (SELECT max(position) FROM records WHERE position >> {_OFFSET_BITS} = streams.id)
            - (streams.id << {_OFFSET_BITS}) + 1, 0)) FROM streams
"""
_POSITIONS: Final = "SELECT topic, partition, position FROM positions"

_OF_ATTEMPTS: Final = "SELECT effect_key FROM attempts JOIN effects ON effects.id = effect_id"

# What must hold once nothing is open; each query names the rows for which it does not.
_RULES: Final = {
    "settled in an unknown state": (
        "SELECT effect_key || ' ' || state FROM effects"
        f" WHERE state NOT IN {tuple(map(str, SETTLED_STATES))}"
    ),
    "settled without a time": "SELECT effect_key FROM effects WHERE settled_at IS NULL",
    "settled under a lease": "SELECT effect_key FROM effects WHERE lease_owner IS NOT NULL",
    "applied by more than one attempt": (
        f"{_OF_ATTEMPTS} WHERE outcome = 'applied' GROUP BY effect_key HAVING count(*) > 1"
    ),
    "suspected double": f"{_OF_ATTEMPTS} WHERE result = 'suspected_double'",
    "more attempts recorded than claimed": (
        f"{_OF_ATTEMPTS} WHERE attempts.attempt > effects.attempt"
    ),
    "effects without their order": (
        "SELECT effect_key FROM effects WHERE order_key NOT IN (SELECT order_key FROM orders)"
    ),
}


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        yield db


def count_open(ledger_path: Path) -> int:
    """Effects that are not settled."""
    with _reading(ledger_path) as db:
        (count,) = db.execute(_OPEN).fetchone()
        return int(count)


def planned_orders(ledger_path: Path) -> set[str]:
    """Ids of the orders that the ledger knows."""
    with _reading(ledger_path) as db:
        return {order_key for (order_key,) in db.execute(_PLANNED)}


def backlog(log_path: Path, ledger_path: Path) -> int:
    """Records in the log that the ledger has not taken yet."""
    with _reading(log_path) as log, _reading(ledger_path) as ledger:
        ends = {(topic, number): end for topic, number, end in log.execute(_ENDS)}
        positions = {(topic, number): at for topic, number, at in ledger.execute(_POSITIONS)}
    return sum(end - positions.get(stream, 0) for stream, end in ends.items())


def assert_ledger_is_sound(ledger_path: Path) -> None:
    """
    The ledger of a run that came to rest with everything settled.

    Raises: AssertionError naming every broken rule.
    """
    with _reading(ledger_path) as db:
        (verdict,) = db.execute("PRAGMA integrity_check").fetchone()
        assert verdict == "ok", verdict
        broken = {rule: [key for (key,) in db.execute(query)] for rule, query in _RULES.items()}
    assert not any(broken.values()), {rule: keys for rule, keys in broken.items() if keys}


def let_time_pass(ledger_path: Path, *, seconds: float) -> None:
    """
    Make every effect of a stopped service older, so that what it waits for has come.

    A test that waits for an hour is not worth having.
    """
    shift_ms = int(seconds * 1000)
    with closing(sqlite3.connect(ledger_path)) as db, db:
        db.execute(
            "UPDATE effects SET due_at = due_at - :shift, created_at = created_at - :shift,"
            " received_at = received_at - :shift, first_attempt_at = first_attempt_at - :shift,"
            " absence_counts_from = absence_counts_from - :shift",
            {"shift": shift_ms},
        )
