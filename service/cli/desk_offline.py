"""The desk on the ledger file itself, while no service runs on it."""

import getpass
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Any, Final

from service.cli.desk import DeadLetterFilter, Row, Rows
from service.domain.effects import EffectKey, Kind, State
from service.domain.errors import StartupError
from service.domain.ledger import DeadLetter
from service.offline import open_offline
from service.operations import Operations, Selection
from service.settings import Settings

# As the domain names them, and as the ledger's columns and the API do.
_COLUMNS: Final = {
    "at_ms": "at",
    "replayed_at_ms": "replayed_at",
    "dismissed_at_ms": "dismissed_at",
}


class OfflineDesk:
    """Calls the use cases in this process; changes are recorded under this machine's user."""

    def __init__(self, operations: Operations, *, by: str) -> None:
        self._operations = operations
        self._by = by

    async def effects(
        self,
        *,
        states: Sequence[State],
        kind: Kind | None,
        order_id: str | None,
        limit: int,
        after: str | None,
    ) -> Rows:
        page = await self._operations.list_effects(
            states=states, kind=kind, order_id=order_id, limit=limit, after=after
        )
        return Rows(page.items, page.next)

    async def order(self, order_id: str) -> Row:
        return await self._operations.show_order(order_id)

    async def look_up(self, key: str) -> str:
        return (await self._operations.look_up(EffectKey(key), by=self._by)).value

    async def release(self, key: str) -> None:
        await self._operations.release(EffectKey(key), by=self._by)

    async def reject(self, key: str) -> None:
        await self._operations.reject(EffectKey(key), by=self._by)

    async def holds(self, *, only_open: bool, limit: int, after: str | None) -> Rows:
        page = await self._operations.list_holds(only_open=only_open, limit=limit, after=after)
        return Rows(page.items, page.next)

    async def hold(self, key: str) -> Row:
        return await self._operations.show_hold(EffectKey(key))

    async def end_hold(self, key: str) -> None:
        await self._operations.end_hold(EffectKey(key), by=self._by)

    async def dead_letters(
        self, wanted: DeadLetterFilter, *, limit: int, after: str | None
    ) -> Rows:
        page = await self._operations.list_dead_letters(
            reason=wanted.reason,
            since_ms=wanted.since_ms,
            until_ms=wanted.until_ms,
            only_open=wanted.only_open,
            limit=limit,
            after=after,
        )
        return Rows(page.items, page.next)

    async def dead_letter(self, dead_letter_id: int) -> Row:
        return _row(await self._operations.show_dead_letter(dead_letter_id))

    async def dead_letter_bytes(self, dead_letter_id: int) -> bytes:
        return (await self._operations.show_dead_letter(dead_letter_id)).record

    async def replay(self, ids: Sequence[int]) -> Sequence[Row]:
        changed = await self._operations.replay(Selection(ids=tuple(ids)), by=self._by)
        return [asdict(item) for item in changed]

    async def dismiss(self, ids: Sequence[int]) -> Sequence[Row]:
        changed = await self._operations.dismiss(Selection(ids=tuple(ids)), by=self._by)
        return [asdict(item) for item in changed]

    async def lanes(self) -> Sequence[Row]:
        return await self._operations.lanes()

    async def release_lane(self, lane: str) -> None:
        await self._operations.release_lane(lane, by=self._by)


@asynccontextmanager
async def open_offline_desk(settings: Settings) -> AsyncIterator[OfflineDesk]:
    """
    The desk on the ledger that the settings name; a file must be there.

    Raises: StartupError `already_running` when a service runs on it, `no_ledger` without one.
    """
    if settings.ledger_path is not None and not settings.ledger_path.exists():
        # Opening would make an empty one, which would look like a ledger without problems.
        raise StartupError("no_ledger", f"there is no {settings.ledger_path} (RELAY_LEDGER_URL)")
    async with AsyncExitStack() as stack:
        try:
            operations = await stack.enter_async_context(open_offline(settings))
        except StartupError as error:
            if error.reason != "already_running":
                raise
            hint = "without --offline the command asks the running service"
            raise StartupError(error.reason, f"{error.detail}; {hint}") from error
        yield OfflineDesk(operations, by=f"offline:{_user()}")


def _user() -> str:
    """Who works at this machine; a container's user may have a number only."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _row(dead_letter: DeadLetter) -> dict[str, Any]:
    row = asdict(dead_letter)
    del row["record"]
    return {_COLUMNS.get(name, name): value for name, value in row.items()}
