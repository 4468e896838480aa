"""The operations listener over fake use cases, on a real socket."""

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from service.domain.clock import SteadyClock
from service.telemetry.metrics import Metrics
from service.web.authentication import BasicAuthentication, LoginThrottle
from service.web.listeners import Listener, ListenerConfig
from service.web.operations_door import OPERATOR, operations_router
from service.web.shape_keeping import ShapeKeeper
from service.web.shapes import ShapeLog
from tests.fakes.operations import FakeOperations

PASSWORD = "operators word"
AUTHORIZATION = "Basic " + b64encode(f"{OPERATOR}:{PASSWORD}".encode()).decode()


@dataclass
class OperationsListener:
    """What runs, and what a test turns."""

    listener: Listener
    operations: FakeOperations
    metrics: Metrics
    shapes: ShapeLog
    reasons: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.listener.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def operations_listener(
    *, has_password: bool = True, has_ledger: bool = True
) -> AsyncIterator[OperationsListener]:
    """A running operations listener; stopped afterwards."""
    metrics = Metrics(CollectorRegistry())
    operations = FakeOperations.with_rows()
    authentication = BasicAuthentication(
        [(OPERATOR, PASSWORD)], realm="operations", throttle=LoginThrottle(SteadyClock())
    )
    reasons: list[str] = []
    shapes = ShapeLog(SteadyClock())
    shapes.note("webhook:order-confirmed", body=b'{"type": "order-confirmed", "payload": []}')
    shapes.note("webhook:customer-created", body=b'{"type": "customer-created"}')
    listener = Listener(
        ListenerConfig("operations", "127.0.0.1", 0, "RELAY_OPERATIONS_PORT"),
        operations_router(
            operations if has_ledger else None,
            metrics=metrics.registry,
            authentication=authentication if has_password else None,
            not_ready=lambda: reasons,
            degraded=list,
            shapes=ShapeKeeper(shapes, every_s=30),
        ),
    )
    await listener.start()
    try:
        yield OperationsListener(listener, operations, metrics, shapes, reasons)
    finally:
        await listener.stop(grace_s=5)
