"""A client of Splio and the scripted server that it talks to, over real sockets."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import pytest
from prometheus_client import CollectorRegistry

from service.domain.clock import SteadyClock
from service.domain.errors import RelayError
from service.domain.ports import Step
from service.splio.client import SplioClient, open_splio_client
from service.splio.config import SplioConfig
from service.telemetry.metrics import Metrics
from tests.fakes.splio_server import SplioServer, open_splio_server

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class SplioBench:
    """`on_step` is told of each labelled step; `steps` by default."""

    def __init__(self, server: SplioServer, stack: AsyncExitStack) -> None:
        self.server = server
        self.clock = SteadyClock()
        self.registry = CollectorRegistry()
        self.steps: list[Step] = []
        self.on_step: Callable[[Step], None] = self.steps.append
        self._stack = stack
        self.client: SplioClient

    @classmethod
    @asynccontextmanager
    async def begin(cls) -> AsyncIterator[Self]:
        """With a client of the default settings, without limits."""
        async with AsyncExitStack() as stack:
            bench = cls(await stack.enter_async_context(open_splio_server()), stack)
            await bench.open()
            yield bench

    async def open(self, **settings: Any) -> SplioClient:
        """Another client, by these settings, in place of the one before."""
        config = SplioConfig(
            **({"url": self.server.url, "api_key": "key", "limits": {}} | settings)
        )
        self.registry = CollectorRegistry()
        self.client = await self._stack.enter_async_context(
            open_splio_client(
                config,
                clock=self.clock,
                metrics=Metrics(self.registry),
                step=self._reached,
            )
        )
        return self.client

    def _reached(self, step: Step) -> None:
        self.on_step(step)

    def value(self, name: str, **labels: str) -> float:
        found = self.registry.get_sample_value(name, labels)
        assert found is not None, f"no metric {name}{labels}"
        return found


async def failure(work: Awaitable[object]) -> RelayError:
    """How `work` fails, which it must."""
    with pytest.raises(RelayError) as raised:
        await work
    return raised.value
