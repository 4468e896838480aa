"""What all operations of the sandbox share: the universe's rules and one call's parts."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from service.sandbox.checks import DATE_FORMAT, Hours

RepeatedKey = Literal["suppress", "book"]
RepeatedGrantKey = Literal["suppress", "refuse", "book"]
TooFewPoints = Literal["flat", "listed", "stock", "grant"]
LONGEST_HOLDING_DAYS = 3650
Members = Literal["ean13", "registered"]


@dataclass(slots=True)
class Universe:
    """
    The rules of one sandbox universe; some of them change while it runs.

    Attributes:
        points_visible_after_s: how long a credit stays out of `GET /loyalty/points`.
        repeated_key: what a credit with a known idempotency key does.
        grants_visible_after_s: how long a grant stays out of ledger, balance and lists.
        repeated_grant_key: what a grant with a known idempotency key does.
        too_few_points: how a grant that the card cannot pay is answered.
        holding_days: how long NQ points are held back after the date of their event.
        rewards: the rewards there from the start, with their price in NQ points.
    """

    unique_key: str
    members: Members
    hours: Hours
    automatic_subscription: bool
    program_start: str
    points_visible_after_s: float
    repeated_key: RepeatedKey
    grants_visible_after_s: float = 0.0
    repeated_grant_key: RepeatedGrantKey = "suppress"
    too_few_points: TooFewPoints = "flat"
    holding_days: int = 0
    rewards: Mapping[str, int] = field(default_factory=dict)

    @property
    def unique_field(self) -> int | None:
        """The id of the custom field that is the unique key (`c3`), or None for the others."""
        return int(self.unique_key[1:]) if self.unique_key not in ("email", "cellphone") else None


@dataclass(frozen=True, slots=True)
class Call:
    """
    One request as an operation sees it, inside a transaction of the books.

    Attributes:
        parts: the percent-decoded variable parts of the path.
        body: the JSON object of a POST or PATCH; empty otherwise.
        now: wall clock, seconds.
    """

    db: sqlite3.Connection
    universe: Universe
    now: float
    parts: tuple[str, ...] = ()
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def date(self) -> str:
        """Now as Splio prints it; the universe's time zone is UTC."""
        return datetime.fromtimestamp(self.now, UTC).strftime(DATE_FORMAT)
