"""What unit tests share: a clock that stands still, and metrics of their own."""

import pytest
from prometheus_client import CollectorRegistry

from service.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())
