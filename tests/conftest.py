"""What holds for all tests."""

import pytest
from hypothesis import HealthCheck, settings
from prometheus_client import CollectorRegistry

from service.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock
from tests.harness.infrastructure import (
    kafka_jars,
    kafka_server,
    make_kafka_server,
    postgres_server,
    private_postgres,
)

__all__ = [
    "kafka_jars",
    "kafka_server",
    "make_kafka_server",
    "postgres_server",
    "private_postgres",
]

# The same examples in every run, and no judgement of speed: machines differ.
settings.register_profile(
    "relay", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("relay")


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def metrics() -> Metrics:
    """Metrics of the test's own."""
    return Metrics(CollectorRegistry())
