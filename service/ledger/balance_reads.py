"""Reads of what is known of cards: those asked for in one turn of the event loop, in one go."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

from service.domain.checkout import KnownBalance
from service.domain.errors import NotFoundError
from service.ledger import holds
from service.ledger.database import Connection

R = TypeVar("R")

_Asked = list[tuple[str, asyncio.Future[KnownBalance]]]


class Reader(Protocol):
    """A connection that only reads."""

    async def run(self, read: Callable[[Connection], R]) -> R:
        """
        Run `read` on the reader's thread; all its statements see the same.

        Raises: LedgerUnavailableError.
        """
        ...


class BalanceReads:
    """
    Reads for concurrent callers, one trip to the reader's thread for all who wait.

    A trip begins after every call that it answers, so what was committed before a call shows in
    its answer; who comes while one is under way waits for the next.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._asked: _Asked = []
        self._trips: set[asyncio.Task[Mapping[str, KnownBalance]]] = set()

    async def read(self, card: str) -> KnownBalance:
        """What is known of `card`. Raises: LedgerUnavailableError."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[KnownBalance] = loop.create_future()
        self._asked.append((card, future))
        if len(self._asked) == 1 and not self._trips:
            loop.call_soon(self._set_out)
        return await future

    def _set_out(self) -> None:
        asked, self._asked = self._asked, []
        self._read(asked)

    def _read(self, asked: _Asked) -> None:
        cards: Sequence[str] = list({card for card, _ in asked})
        trip = asyncio.create_task(
            self._reader.run(partial(holds.read_known_balances, cards=cards)), name="balance-reads"
        )
        self._trips.add(trip)
        trip.add_done_callback(partial(self._give_out, asked))

    def _give_out(self, asked: _Asked, trip: asyncio.Task[Mapping[str, KnownBalance]]) -> None:
        self._trips.discard(trip)
        if self._asked and not self._trips:
            self._set_out()
        error = None if trip.cancelled() else trip.exception()
        if isinstance(error, NotFoundError) and len(asked) > 1:
            for each in asked:  # one is no text that can be stored; the others are fine
                self._read([each])
            return
        for card, future in asked:
            if future.done():  # nobody waits any more
                continue
            if trip.cancelled():
                future.cancel()
            elif error is not None:
                future.set_exception(error)
            else:
                future.set_result(trip.result()[card])
