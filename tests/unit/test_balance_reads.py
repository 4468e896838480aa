"""Reads of balances: one trip for all who wait, and never older than the call that it answers."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import pytest

from service.domain.checkout import KnownBalance
from service.domain.errors import LedgerUnavailableError, NotFoundError, RelayError
from service.ledger.balance_reads import BalanceReads
from service.ledger.database import Connection
from tests.fakes.waiting import settle_down, until

R = TypeVar("R")


class FakeReader:
    """A reader whose trips begin when they are asked for and end when `go` is set."""

    def __init__(self, known: dict[str, int]) -> None:
        self.known = known
        self.trips: list[list[str]] = []
        self.errors: list[Exception] = []
        self.bad: Counter[str] = Counter()
        self.go = asyncio.Event()
        self.go.set()

    async def run(self, read: Callable[[Connection], R]) -> R:
        cards: list[str] = read.keywords["cards"]  # type: ignore[attr-defined]  # a partial
        self.trips.append(sorted(cards))
        seen = {card: KnownBalance(self.known.get(card), 1, 0, ()) for card in cards}
        await self.go.wait()
        if self.errors:
            raise self.errors.pop()
        if self.bad.keys() & set(cards):
            raise NotFoundError("not_storable", "")
        return seen  # type: ignore[return-value]


def ask(reads: BalanceReads, *cards: str) -> list[asyncio.Task[KnownBalance]]:
    return [asyncio.create_task(reads.read(card)) for card in cards]


async def told(asking: list[asyncio.Task[KnownBalance]]) -> list[int | None]:
    return [known.at_splio for known in await asyncio.gather(*asking)]


async def test_who_asks_in_one_turn_shares_one_trip() -> None:
    reader = FakeReader({"a": 1, "b": 2})
    assert await told(ask(BalanceReads(reader), "a", "b", "a", "c")) == [1, 2, 1, None]
    assert reader.trips == [["a", "b", "c"]]


async def test_who_asks_while_a_trip_is_under_way_waits_for_the_next() -> None:
    """Its read may have been done before what the caller must see was written."""
    reader = FakeReader({"a": 1})
    reads = BalanceReads(reader)
    reader.go.clear()
    early = ask(reads, "a")
    await until(lambda: reader.trips)
    reader.known["a"] = 2
    late = ask(reads, "a", "a")
    await settle_down()
    assert reader.trips == [["a"]]
    reader.go.set()
    assert await told(early) == [1]
    assert await told(late) == [2, 2]
    assert reader.trips == [["a"], ["a"]]


async def test_error_of_a_trip_is_that_of_all_who_waited_for_it() -> None:
    reader = FakeReader({"a": 1})
    reads = BalanceReads(reader)
    reader.errors.append(LedgerUnavailableError("not_readable"))
    asking = ask(reads, "a", "b")
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(result, LedgerUnavailableError) for result in results)
    assert await told(ask(reads, "a")) == [1]


async def test_card_that_is_no_text_spoils_no_other() -> None:
    reader = FakeReader({"a": 1, "b": 2})
    reader.bad["bad"] = 1
    asking = ask(BalanceReads(reader), "a", "bad", "b")
    one, bad, other = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(one, KnownBalance) and isinstance(other, KnownBalance)
    assert isinstance(bad, RelayError)
    assert (one.at_splio, other.at_splio) == (1, 2)


async def test_caller_who_goes_away_spoils_nothing() -> None:
    reader = FakeReader({"a": 1, "b": 2})
    reads = BalanceReads(reader)
    reader.go.clear()
    first, second = ask(reads, "a", "b")
    await until(lambda: reader.trips)
    first.cancel()
    await settle_down()
    reader.go.set()
    assert (await second).at_splio == 2
    with pytest.raises(asyncio.CancelledError):
        await first
