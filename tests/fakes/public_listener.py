"""The public listener over a fake log, on a real socket."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from producers.events import EventPublisher
from service.domain.clock import SteadyClock
from service.domain.ports import Step
from service.telemetry.metrics import Metrics
from service.web.authentication import BasicAuthentication, LoginThrottle
from service.web.listeners import Listener, ListenerConfig
from service.web.public_door import public_router
from service.web.webhooks import WebhookDoor, WebhookLimits
from tests.fakes.log_writer import FakeLogWriter

USER, PASSWORD = "scayle", "right:word"
AUTHORIZATION = "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()
PATH = "/webhooks/scayle"
BODY_LIMIT = 64 * 1024


@dataclass
class PublicListener:
    """What runs, and what a test turns."""

    listener: Listener
    log: FakeLogWriter
    metrics: Metrics
    steps: list[Step]
    accepting: bool = True

    @property
    def port(self) -> int:
        return self.listener.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def counted(self, outcome: str) -> float | None:
        """`relay_webhooks_total` of one outcome."""
        return self.metrics.registry.get_sample_value("relay_webhooks_total", {"outcome": outcome})


@asynccontextmanager
async def public_listener(
    *,
    body_timeout_s: float = 5.0,
    head_timeout_s: float = 5.0,
    idle_timeout_s: float = 30.0,
    max_connections: int = 64,
) -> AsyncIterator[PublicListener]:
    """A running public listener; stopped afterwards."""
    clock = SteadyClock()
    metrics = Metrics(CollectorRegistry())
    log = FakeLogWriter()
    steps: list[Step] = []
    door = WebhookDoor(
        EventPublisher(log, metrics=metrics, tenant="main", clock=clock),
        authentication=BasicAuthentication(
            [("scayle", "previous"), (USER, PASSWORD)],
            realm="webhooks",
            throttle=LoginThrottle(clock),
        ),
        metrics=metrics,
        clock=clock,
        accepting=lambda: running.accepting,
        limits=WebhookLimits(BODY_LIMIT, body_timeout_s),
        step=steps.append,
    )
    listener = Listener(
        ListenerConfig(
            "public",
            "127.0.0.1",
            0,
            "RELAY_HTTP_PORT",
            max_connections=max_connections,
            head_timeout_s=head_timeout_s,
            idle_timeout_s=idle_timeout_s,
        ),
        public_router(door),
    )
    running = PublicListener(listener, log, metrics, steps)
    await listener.start()
    try:
        yield running
    finally:
        log.gate.set()
        async with asyncio.timeout(10):
            await listener.stop(grace_s=5)
