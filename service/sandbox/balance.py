"""What a card holds: usable, held back, spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.sandbox.universe import Call

# The ledger's type of event for points that a grant took.
GRANT_EVENT = "reward_attribution"


@dataclass(frozen=True, slots=True)
class Balance:
    """
    The points of one card.

    Attributes:
        usable, held: NQ points that may be spent, and those in the holding period.
        next_release: the date of the next release, and how many it releases.
        q_points: qualifying points, which no period holds back.
        spent: NQ points that grants took.
    """

    usable: int
    held: int
    next_release: tuple[str, int] | None
    q_points: int
    spent: int


def read_balance_of(call: Call, card_code: str, *, all_grants: bool = False) -> Balance:
    """
    What the ledger shows of a card, added up.

    Args:
        all_grants: counts the grants that the ledger does not show yet as well.
    """
    visible, values = visible_points(call, all_grants=all_grants)
    rows = call.db.execute(
        f"SELECT points_type, event_type, {_release(call)} AS free_at, sum(points) AS n"
        f" FROM points p WHERE card_code = ? AND {visible}"
        " GROUP BY points_type, event_type, free_at ORDER BY free_at",
        (*_release_values(call), card_code, *values),
    ).fetchall()
    held = [(row["free_at"], row["n"]) for row in rows if row["free_at"] is not None]
    free = [row for row in rows if row["free_at"] is None]
    return Balance(
        usable=sum(row["n"] for row in free if row["points_type"] == "nq"),
        held=sum(points for _, points in held),
        next_release=held[0] if held else None,
        q_points=sum(row["n"] for row in free if row["points_type"] == "q"),
        spent=-sum(row["n"] for row in free if row["event_type"] == GRANT_EVENT),
    )


def visible_points(call: Call, *, all_grants: bool = False) -> tuple[str, tuple[Any, ...]]:
    """The condition on the ledger `p` that hides what Splio has not processed yet."""
    grants_after_s = 0.0 if all_grants else call.universe.grants_visible_after_s
    return (
        "p.booked_at <= CASE p.event_type WHEN ? THEN ? ELSE ? END",
        (GRANT_EVENT, call.now - grants_after_s, call.now - call.universe.points_visible_after_s),
    )


def _release(call: Call) -> str:
    """The date on which NQ points leave the holding period, or null when they are usable."""
    if not call.universe.holding_days:
        return "NULL"
    release = "datetime(event_date, ?)"
    return f"CASE WHEN points_type = 'nq' AND points > 0 AND {release} > ? THEN {release} END"


def _release_values(call: Call) -> tuple[str, ...]:
    days = call.universe.holding_days
    period = f"+{days} days"
    return (period, call.date, period) if days else ()
