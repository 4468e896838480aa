"""What the books say, for tests and demonstrations: totals, and every row."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from service.sandbox.state import State


async def statement(state: State) -> dict[str, Any]:
    """
    The statement of account.

    From the books, so over all restarts: what exists, refused and suppressed repeats,
    `doubles` (contexts booked more than once), `grant_doubles` (a reward granted to a card
    more than once for one reason), NQ points earned, spent and left. Since the start:
    requests, 429 and faults.
    """
    return {
        **await state.books.run(_totals),
        "requests": _by_operation(state),
        "rate_limited": state.rate_limited,
        "faults": state.faults.injected_by_operation(),
        "peak_requests_in_one_second": {
            category: peak.highest for category, peak in state.peaks.items()
        },
    }


def all_orders(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """Every order and cart with its lines, in the order of creation."""
    rows = db.execute(
        "SELECT o.external_id, c.contact_key, o.completed, o.created_at, o.updated_at, o.body"
        " FROM orders o JOIN contacts c ON c.id = o.contact ORDER BY o.id"
    )
    return [
        {
            "external_id": row["external_id"],
            "contact_id": row["contact_key"],
            "completed": bool(row["completed"]),
            **orjson.loads(row["body"]),
            "created_at": row["created_at"],
            "updated_at": row["updated_at"],
        }
        for row in rows
    ]


def all_credits(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """Every credit that was booked, in the order of booking."""
    rows = db.execute(
        "SELECT context, card_code, nq_points, q_points, is_final, idempotency_key,"
        " event_date, created_at FROM credits ORDER BY id"
    )
    return [{**dict(row), "is_final": bool(row["is_final"])} for row in rows]


def all_attributions(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """Every code that a grant gave out, in the order of granting; `nq_points` is its price."""
    rows = db.execute(
        "SELECT a.external_id, r.external_id AS reward_id, g.card_code,"
        " g.nq_points / g.quantity AS nq_points, g.reason AS reason_msg, g.idempotency_key,"
        " g.uuid, g.grant_date AS earned_date, a.expires_at AS expiration_date,"
        " a.burned_at AS burned_date, a.store_id, a.burn_reason AS burn_reason_msg,"
        " g.created_at"
        " FROM attributions a JOIN grants g ON g.id = a.grant_id JOIN rewards r ON r.id = g.reward"
        " ORDER BY a.id"
    )
    return [dict(row) for row in rows]


def all_accounts(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """
    Every card's NQ points, those not visible or usable yet included.

    `earned` is the sum of the credits, `spent` of the grants, `balance` of the ledger; so
    earned less spent is the balance unless the sandbox itself is wrong.
    """
    rows = db.execute(
        "SELECT card_code, sum(earned) AS earned, sum(spent) AS spent, sum(balance) AS balance"
        " FROM (SELECT card_code, nq_points AS earned, 0 AS spent, 0 AS balance FROM credits"
        " UNION ALL SELECT card_code, 0, nq_points, 0 FROM grants"
        " UNION ALL SELECT card_code, 0, 0, points FROM points WHERE points_type = 'nq')"
        " GROUP BY card_code ORDER BY card_code"
    )
    return [dict(row) for row in rows]


async def rows_of(
    state: State, read: Callable[[sqlite3.Connection], list[dict[str, Any]]]
) -> bytes:
    """What one of the functions above reads, as NDJSON."""
    rows = await state.books.run(read)
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def _totals(db: sqlite3.Connection) -> dict[str, Any]:
    counts = {
        table: db.execute(f"SELECT count(*) AS n FROM {table}").fetchone()["n"]
        for table in ("contacts", "products", "stores", "members")
    }
    kinds = db.execute(
        "SELECT coalesce(sum(completed), 0) AS orders, coalesce(sum(NOT completed), 0) AS carts"
        " FROM orders"
    ).fetchone()
    credits = db.execute(
        "SELECT count(*) AS count, coalesce(sum(nq_points), 0) AS nq_points,"
        " coalesce(sum(q_points), 0) AS q_points,"
        " count(DISTINCT context) AS distinct_contexts FROM credits"
    ).fetchone()
    doubles = db.execute(
        "SELECT context, count(*) AS times, sum(nq_points) AS nq_points FROM credits"
        " GROUP BY context HAVING count(*) > 1 ORDER BY context"
    )
    tallies = {row["name"]: row["n"] for row in db.execute("SELECT name, n FROM tallies")}
    return {
        **counts,
        **dict(kinds),
        "credits": dict(credits),
        "orders_posted_twice": tallies.get("orders_posted_twice", 0),
        "credits_suppressed": tallies.get("credits_suppressed", 0),
        "doubles": [dict(row) for row in doubles],
        **_granted(db, tallies),
        "points": _points(db, earned=credits["nq_points"]),
    }


def _granted(db: sqlite3.Connection, tallies: Mapping[str, int]) -> dict[str, Any]:
    grants = db.execute(
        "SELECT count(*) AS count, coalesce(sum(quantity), 0) AS attributions,"
        " coalesce(sum(nq_points), 0) AS nq_points FROM grants"
    ).fetchone()
    burned = db.execute("SELECT count(burned_at) AS burned FROM attributions").fetchone()
    doubles = db.execute(
        "SELECT g.reason AS reason_msg, g.card_code, r.external_id AS reward_id,"
        " count(*) AS times, sum(g.nq_points) AS nq_points"
        " FROM grants g JOIN rewards r ON r.id = g.reward WHERE g.reason != ''"
        " GROUP BY g.reason, g.card_code, g.reward HAVING count(*) > 1"
        " ORDER BY g.reason, g.card_code, g.reward"
    )
    return {
        "grants": {**dict(grants), **dict(burned)},
        "grants_suppressed": tallies.get("grants_suppressed", 0),
        "grants_without_points": tallies.get("grants_without_points", 0),
        "grant_doubles": [dict(row) for row in doubles],
    }


def _points(db: sqlite3.Connection, *, earned: int) -> dict[str, int]:
    spent = db.execute("SELECT coalesce(sum(nq_points), 0) AS n FROM grants").fetchone()["n"]
    balance = db.execute(
        "SELECT coalesce(sum(points), 0) AS n FROM points WHERE points_type = 'nq'"
    ).fetchone()["n"]
    return {"earned": earned, "spent": spent, "balance": balance}


def _by_operation(state: State) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for (operation, status), times in sorted(state.requests.items()):
        table.setdefault(operation, {})[status] = times
    return table
