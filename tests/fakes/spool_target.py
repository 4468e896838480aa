"""A broker's log that takes, fails, hangs or refuses as a test tells it."""

import asyncio
from collections.abc import Callable
from enum import Enum, auto

from service.domain.errors import LogUnavailableError, PermanentError
from service.domain.records import NewRecord


class Fate(Enum):
    """What becomes of one append."""

    TAKEN = auto()
    AWAY = auto()
    LANDED_BUT_AWAY = auto()  # it is there, and nobody is told
    REFUSED = auto()
    HANGS = auto()  # until `release`, then as the fate is by that time


class FakeTarget:
    """Implements `LogWriter`; `fate` decides about each append."""

    def __init__(self, fate: Fate | Callable[[NewRecord], Fate] = Fate.TAKEN) -> None:
        self.fate = fate
        self.arrived: list[NewRecord] = []
        self.attempts = 0
        self.refused: list[NewRecord] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._released = asyncio.Event()

    @property
    def values(self) -> list[bytes]:
        """What arrived, in order."""
        return [record.value for record in self.arrived]

    def release(self, fate: Fate | Callable[[NewRecord], Fate]) -> None:
        """Let what hangs go on with a new fate, as all that comes."""
        self.fate = fate
        self._released.set()
        self._released = asyncio.Event()

    async def append(self, record: NewRecord) -> None:
        self.attempts += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0)
            while (fate := self._fate_of(record)) is Fate.HANGS:
                await self._released.wait()
        finally:
            self.in_flight -= 1
        if fate in (Fate.TAKEN, Fate.LANDED_BUT_AWAY):
            self.arrived.append(record)
        if fate in (Fate.AWAY, Fate.LANDED_BUT_AWAY):
            raise LogUnavailableError("not_connected")
        if fate is Fate.REFUSED:
            self.refused.append(record)
            raise PermanentError("not_authorised")

    def _fate_of(self, record: NewRecord) -> Fate:
        return self.fate(record) if callable(self.fate) else self.fate
