"""What holds for all tests."""

import logging
from collections.abc import Iterator

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


@pytest.fixture(autouse=True)
def logs_as_found() -> Iterator[None]:
    """A command run in this process sets up its logs; the next test must not inherit them."""
    loggers = [logging.getLogger(name) for name in (None, "aiohttp.access", "asyncio", "aiokafka")]
    levels = [logger.level for logger in loggers]
    handlers = loggers[0].handlers[:]
    yield
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def metrics() -> Metrics:
    """Metrics of the test's own."""
    return Metrics(CollectorRegistry())
