"""Shoppers with cards in a checkout: each asks for its balance, and again once a minute."""

import asyncio
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp

from tests.benchmarks.balance_servers import TOKEN, target

EVERY_S: Final = 60.0  # how often SCAYLE asks again
_READ_ASKED_AT: Final = "SELECT asked_at FROM balances WHERE card = ?"


@dataclass(slots=True)
class Polls:
    """
    What shoppers were answered; ages are those of the values, in seconds.

    `came` are those with new cards, and `first_after_s` tells of those of them who got a value.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    ages_s: list[float] = field(default_factory=list)
    first_after_s: list[float] = field(default_factory=list)
    came: int = 0
    refused_known: int = 0
    refused_new: int = 0


class Shoppers:
    """
    A crowd of one size: at a steady rate somebody leaves and somebody with a new card comes.

    Args:
        known: cards of who is there at the beginning, whose balances the ledger knows.
        new: cards of who comes.
        ledger: its file, which is read for the age of what was answered.
    """

    def __init__(
        self, url: str, *, known: list[str], new: Iterator[str], new_per_s: float, ledger: Path
    ) -> None:
        self._url = url
        self._known = known
        self._new = new
        self._new_per_s = new_per_s
        self._ledger = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, isolation_level=None)
        self._random = random.Random(1)
        self.polls = Polls()

    async def run(self, seconds: float) -> Polls:
        """Let them ask for so long."""
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            aiohttp.ClientSession(self._url, connector=connector, headers=headers) as session,
            asyncio.TaskGroup() as group,
        ):
            there = [
                group.create_task(self._shop(session, card, self._random.uniform(0, EVERY_S)))
                for card in self._known
            ]
            end_s = time.monotonic() + seconds
            at_s = time.monotonic()
            while (at_s := at_s + 1 / self._new_per_s) < end_s:
                await asyncio.sleep(max(0.0, at_s - time.monotonic()))
                gone = self._random.randrange(len(there))
                there[gone].cancel()
                there[gone] = group.create_task(self._come(session, next(self._new)))
            for task in there:
                task.cancel()
        self._ledger.close()
        return self.polls

    async def _come(self, session: aiohttp.ClientSession, card: str) -> None:
        """Ask for a first value until it is there, then as the others."""
        came_s = time.monotonic()
        self.polls.came += 1
        while (retry_after_s := await self._poll(session, card)) is not None:
            self.polls.refused_new += 1
            await asyncio.sleep(retry_after_s)
        self.polls.first_after_s.append(time.monotonic() - came_s)
        await self._shop(session, card, EVERY_S)

    async def _shop(self, session: aiohttp.ClientSession, card: str, wait_s: float) -> None:
        while True:
            await asyncio.sleep(wait_s)
            wait_s = EVERY_S
            if await self._poll(session, card) is not None:
                self.polls.refused_known += 1

    async def _poll(self, session: aiohttp.ClientSession, card: str) -> float | None:
        """Ask once; None when it was answered, else when to ask again."""
        async with session.get(target(card)) as answer:
            await answer.read()
        self.polls.statuses[answer.status] += 1
        if answer.status != 200:
            return float(answer.headers.get("Retry-After", 1))
        # Its clock is the machine's, like ours; what came in between makes it a little younger.
        row = self._ledger.execute(_READ_ASKED_AT, (card,)).fetchone()
        self.polls.ages_s.append(time.time() - row[0] / 1000)
        return None
