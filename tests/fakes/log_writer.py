"""A log that keeps records in memory and fails, or waits, when told to."""

import asyncio

from service.domain.records import NewRecord


class FakeLogWriter:
    """Implements `LogWriter`. While `gate` is not set, appends wait and nothing is durable."""

    def __init__(self) -> None:
        self.records: list[NewRecord] = []
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0

    async def append(self, record: NewRecord) -> None:
        if self.failure is not None:
            raise self.failure
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        self.records.append(record)
