"""The operator's desk: what the commands ask, of the running service or of its ledger file."""

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from service.domain.effects import Kind, State

Row = Mapping[str, Any]

PAGE_SIZE: Final = 200  # rows asked for at once


@dataclass(frozen=True, slots=True)
class Rows:
    """A page of rows and where to go on."""

    items: Sequence[Row]
    next: str | None


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters are listed; times are milliseconds since the epoch, half open."""

    reason: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    only_open: bool = False


class Desk(Protocol):
    """
    Rows are mappings with the ledger's columns, times in milliseconds since the epoch.

    Raises: NotFoundError, WrongStateError; online UnreachableError and AccessError as well.
    """

    async def effects(
        self,
        *,
        states: Sequence[State],
        kind: Kind | None,
        order_id: str | None,
        limit: int,
        after: str | None,
    ) -> Rows:
        """A page of effects by key."""
        ...

    async def order(self, order_id: str) -> Row:
        """An order's `effects` with their `attempts`, and its `dead_letters`."""
        ...

    async def look_up(self, key: str) -> str:
        """Look an effect in doubt up now; the verdict."""
        ...

    async def release(self, key: str) -> None:
        """Let a held effect be attempted."""
        ...

    async def reject(self, key: str) -> None:
        """Give a held or in-doubt effect up."""
        ...

    async def holds(self, *, only_open: bool, limit: int, after: str | None) -> Rows:
        """A page of holds by their capture's key."""
        ...

    async def hold(self, key: str) -> Row:
        """One hold with `debits` and `refunds`; the whole card for the operator."""
        ...

    async def end_hold(self, key: str) -> None:
        """End a hold."""
        ...

    async def dead_letters(
        self, wanted: DeadLetterFilter, *, limit: int, after: str | None
    ) -> Rows:
        """A page of dead letters without their bytes, by id."""
        ...

    async def dead_letter(self, dead_letter_id: int) -> Row:
        """One dead letter, without its bytes."""
        ...

    async def dead_letter_bytes(self, dead_letter_id: int) -> bytes:
        """The original bytes of a dead letter's record; they may hold personal data."""
        ...

    async def replay(self, ids: Sequence[int]) -> Sequence[Row]:
        """Plan these again; per id a `problem`, empty when it was done."""
        ...

    async def dismiss(self, ids: Sequence[int]) -> Sequence[Row]:
        """Mark these as dealt with; per id a `problem`, empty when it was done."""
        ...

    async def lanes(self) -> Sequence[Row]:
        """One row a lane."""
        ...

    async def release_lane(self, lane: str) -> None:
        """Let a braked or paused lane go on."""
        ...


class Ask(Protocol):
    """Asks for a page of `limit` rows after a place."""

    def __call__(self, *, limit: int, after: str | None) -> Awaitable[Rows]: ...


async def walk(ask: Ask, *, limit: int | None) -> AsyncIterator[Rows]:
    """Pages until `limit` rows (None: all); the last page's `next` tells whether there are more."""
    after: str | None = None
    left = limit
    while left is None or left > 0:
        page = await ask(limit=PAGE_SIZE if left is None else min(left, PAGE_SIZE), after=after)
        yield page
        after = page.next
        if after is None:
            return
        if left is not None:
            left -= len(page.items)


async def all_rows(ask: Ask) -> list[Row]:
    """The rows of all pages."""
    return [row async for page in walk(ask, limit=None) for row in page.items]
