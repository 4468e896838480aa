"""An outbox in memory, and a log for downstream services that follows a script."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence

from service.domain.errors import LedgerUnavailableError, RelayError
from service.domain.notices import Notice, OutboxEntry
from service.domain.records import PublicRecord


class FakeOutboxLedger:
    """
    Implements `OutboxLedger`.

    `unavailable[name]` is how often the method of that name still raises
    LedgerUnavailableError, `limits` what `outbox` was asked for.
    """

    def __init__(self) -> None:
        self.entries: dict[int, OutboxEntry] = {}
        self.unavailable: Counter[str] = Counter()
        self.limits: list[int] = []
        self._next = 1

    def add(self, *notices: Notice) -> list[int]:
        """Write notices as the ledger does when it settles; their ids."""
        ids = []
        for notice in notices:
            self.entries[self._next] = OutboxEntry(self._next, notice)
            ids.append(self._next)
            self._next += 1
        return ids

    async def outbox(self, *, limit: int) -> Sequence[OutboxEntry]:
        await self._enter("outbox")
        self.limits.append(limit)
        return [self.entries[each] for each in sorted(self.entries)[:limit]]

    async def remove_published(self, ids: Sequence[int]) -> None:
        await self._enter("remove_published")
        for each in ids:
            self.entries.pop(each, None)

    async def _enter(self, name: str) -> None:
        await asyncio.sleep(0)
        if self.unavailable[name]:
            self.unavailable[name] -= 1
            raise LedgerUnavailableError("not_writable")


class FakePublicLog:
    """
    Implements `PublicLog`.

    `script` holds how the next calls end (None: well); after it all end well, but for records
    of which `refuses` gives an error. A call that fails leaves the first half of its records, as
    a real log may.
    """

    def __init__(self) -> None:
        self.records: list[PublicRecord] = []
        self.calls: list[int] = []  # how many records each had
        self.script: deque[RelayError | None] = deque()
        self.refuses: Callable[[PublicRecord], RelayError | None] = lambda record: None
        self.on_call: Callable[[], None] = lambda: None

    async def publish(self, records: Sequence[PublicRecord]) -> None:
        await asyncio.sleep(0)
        assert records, "there is something to publish"
        self.calls.append(len(records))
        self.on_call()
        failure = self.script.popleft() if self.script else None
        if failure is not None:
            self.records += records[: len(records) // 2]
            raise failure
        for record in records:
            refusal = self.refuses(record)
            if refusal is not None:
                raise refusal
            self.records.append(record)
