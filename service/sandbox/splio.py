"""A Splio to try things on: opened with its settings, used over HTTP, asked for its books."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from service.sandbox.books import Books
from service.sandbox.checks import Hours, is_date
from service.sandbox.faults import FaultRule
from service.sandbox.limits import RateLimits
from service.sandbox.members import FIRST_PROGRAM
from service.sandbox.server import SplioServer, open_server
from service.sandbox.state import State, prepare, register_member
from service.sandbox.statements import (
    all_accounts,
    all_attributions,
    all_credits,
    all_orders,
    statement,
)
from service.sandbox.tokens import Tokens
from service.sandbox.universe import (
    LONGEST_HOLDING_DAYS,
    Members,
    RepeatedGrantKey,
    RepeatedKey,
    TooFewPoints,
    Universe,
)

_UNIQUE_KEY = re.compile(r"email|cellphone|c\d{1,4}", re.ASCII)
# Requests per second and client address, from Splio's page on rate limits.
DOCUMENTED_LIMITS = {"contacts": 20.0, "sales": 20.0, "other": 10.0}
# Denominations by which a checkout can spend any number of points.
DEFAULT_REWARDS = {"PT1": 1, "PT10": 10, "PT100": 100, "PT1000": 1000}


@dataclass(frozen=True, slots=True)
class SplioSandboxSettings:
    """
    How the sandbox is kept and what it does where Splio's documentation leaves it open.

    Attributes:
        path: the SQLite file; what was answered is in it, also after SIGKILL.
        port: 0 takes a free one.
        unique_key: of contacts: `email`, `cellphone` or `cN` (custom field N).
        limits: requests per second and client address by category (`contacts`, `sales`,
            `other`); a category left out is free, None turns all off.
        points_visible_after_s: how long a credit stays out of `GET /loyalty/points`.
        repeated_key: a credit with a known idempotency key is dropped (`suppress`) or booked
            again (`book`, the harshest reading); answered 202 both times.
        members: `ean13`: every card number with a good EAN-13 check digit is a member;
            `registered`: only those made by `POST /loyalty/members` or the control door.
        hours: whether 01 to 09 o'clock is written `padded` or `plain`; the other is refused.
        automatic_subscription: a new contact becomes a member of program 1 at once.
        program_start: when the programs began; credits before it are refused.
        grants_visible_after_s: how long a grant stays out of the ledger, the balance and the
            lists of attributions; it counts at once against the next grant.
        repeated_grant_key: a grant with a known idempotency key is dropped and answered 200
            with an empty list (`suppress`), refused with 400 (`refuse`), or made again
            (`book`, the harshest reading).
        too_few_points: a grant that the card cannot pay is refused with 400 in the shape of
            the other grant errors (`flat`), in that of most errors (`listed`), in the very
            words of an empty stock (`stock`), or made all the same (`grant`).
        holding_days: days after its event during which a credit is pending, not usable.
        rewards: rewards there from the start, without limit, to their price in NQ points.
    """

    path: str
    host: str = "127.0.0.1"
    port: int = 0
    api_keys: tuple[str, ...] = ("sandbox-api-key",)
    unique_key: str = "email"
    limits: Mapping[str, float] | None = field(default_factory=lambda: dict(DOCUMENTED_LIMITS))
    token_lifetime_s: float = 3600
    points_visible_after_s: float = 0.5
    repeated_key: RepeatedKey = "suppress"
    members: Members = "ean13"
    hours: Hours = "padded"
    automatic_subscription: bool = False
    program_start: str = "2022-01-01 00:00:00"
    grants_visible_after_s: float = 0.5
    repeated_grant_key: RepeatedGrantKey = "suppress"
    too_few_points: TooFewPoints = "flat"
    holding_days: int = 0
    rewards: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_REWARDS))

    def __post_init__(self) -> None:
        if not _UNIQUE_KEY.fullmatch(self.unique_key):
            raise ValueError(f"unique_key is email, cellphone or cN, not {self.unique_key!r}")
        if not is_date(self.program_start, "padded"):
            raise ValueError("program_start is written YYYY-MM-DD HH:MM:SS")
        if not 0 <= self.holding_days <= LONGEST_HOLDING_DAYS:
            raise ValueError(f"holding_days is from 0 to {LONGEST_HOLDING_DAYS}")
        if any(points < 0 for points in self.rewards.values()):
            raise ValueError("a reward's price in points is 0 or more")


class SplioSandbox:
    """A running sandbox: its address, and what the control door offers, without HTTP."""

    def __init__(self, state: State, server: SplioServer, host: str) -> None:
        self._state = state
        self._server = server
        self._host = host

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.port

    @property
    def url(self) -> str:
        """The base address, without a slash at the end."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}"

    def add_fault(self, rule: FaultRule) -> int:
        """Puts a fault rule into force; its number."""
        return self._state.faults.add(rule)

    def clear_faults(self) -> None:
        """Takes all fault rules out of force and ends an outage."""
        self._state.faults.clear()

    def change_settings(self, **changes: Any) -> None:
        """
        Changes some of what `GET /_sandbox/settings` shows.

        Raises: BadSettingError.
        """
        self._state.change_settings(changes)

    async def statement(self) -> dict[str, Any]:
        """The statement of account, as `GET /_sandbox/books` shows it."""
        return await statement(self._state)

    async def orders(self) -> list[dict[str, Any]]:
        """Every order and cart with its lines."""
        return await self._state.books.run(all_orders)

    async def credits(self) -> list[dict[str, Any]]:
        """Every credit that was booked."""
        return await self._state.books.run(all_credits)

    async def attributions(self) -> list[dict[str, Any]]:
        """Every code that a grant gave out."""
        return await self._state.books.run(all_attributions)

    async def accounts(self) -> list[dict[str, Any]]:
        """Every card with what it earned, spent and holds."""
        return await self._state.books.run(all_accounts)

    async def register_member(
        self,
        card_code: str,
        *,
        contact_id: str | None = None,
        program_id: int = FIRST_PROGRAM,
    ) -> None:
        """
        Makes a card known.

        Raises: Refused when there is no contact with this unique key.
        """

        def register(db: sqlite3.Connection) -> None:
            register_member(
                self._state,
                db,
                card_code=card_code,
                contact_id=contact_id,
                program_id=program_id,
            )

        await self._state.books.run(register)


@asynccontextmanager
async def open_splio_sandbox(settings: SplioSandboxSettings) -> AsyncIterator[SplioSandbox]:
    """
    A sandbox that listens while the context is open.

    Raises: ValueError when the file was kept under another unique key, or for an unknown
        category of limits; OSError when the port is taken.
    """
    universe = Universe(
        unique_key=settings.unique_key,
        members=settings.members,
        hours=settings.hours,
        automatic_subscription=settings.automatic_subscription,
        program_start=settings.program_start,
        points_visible_after_s=settings.points_visible_after_s,
        repeated_key=settings.repeated_key,
        grants_visible_after_s=settings.grants_visible_after_s,
        repeated_grant_key=settings.repeated_grant_key,
        too_few_points=settings.too_few_points,
        holding_days=settings.holding_days,
        rewards=settings.rewards,
    )
    limits = RateLimits(settings.limits)
    books = Books(settings.path)
    try:
        await books.open()
        secret = await books.run(partial(prepare, universe=universe))
        state = State(
            books=books,
            universe=universe,
            limits=limits,
            tokens=Tokens(secret),
            api_keys=settings.api_keys,
            token_lifetime_s=settings.token_lifetime_s,
        )
        async with open_server(state, settings.host, settings.port) as server:
            yield SplioSandbox(state, server, settings.host)
    finally:
        await books.close()
