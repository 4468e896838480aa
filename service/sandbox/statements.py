"""What the books say, for tests and demonstrations: totals, and every order and credit."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import orjson

from service.sandbox.state import State


async def statement(state: State) -> dict[str, Any]:
    """
    The statement of account.

    From the books, so over all restarts: what exists, refused and suppressed repeats,
    `doubles` (contexts booked more than once). Since the start: requests, 429 and faults.
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


async def rows_of(
    state: State, read: Callable[[sqlite3.Connection], list[dict[str, Any]]]
) -> bytes:
    """`all_orders` or `all_credits` as NDJSON."""
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
    }


def _by_operation(state: State) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for (operation, status), times in sorted(state.requests.items()):
        table.setdefault(operation, {})[status] = times
    return table
