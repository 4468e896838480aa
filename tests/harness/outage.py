"""A broker that is away for a while."""

import asyncio
from typing import Self

from tests.harness.kafka_server import KafkaServer


class Outage:
    """Stops a broker that runs, and starts it again when asked to or at the end of the context."""

    def __init__(self, server: KafkaServer) -> None:
        self._server = server
        self._is_over = False

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._server.stop)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def end(self) -> None:
        """Start it on what it has kept, unless it is back already."""
        if not self._is_over:
            self._is_over = True
            await asyncio.to_thread(self._server.restart)
