"""What the tests of the checkout share: one clock, a ledger in memory and a Splio behind it."""

import pytest
from prometheus_client import CollectorRegistry

from service.telemetry.metrics import Metrics
from tests.fakes.checkout_ledger import FakeCheckoutLedger
from tests.fakes.clock import FakeClock
from tests.fakes.loyalty import FakeLoyalty


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def ledger(clock: FakeClock) -> FakeCheckoutLedger:
    return FakeCheckoutLedger(clock)


@pytest.fixture
def splio(clock: FakeClock) -> FakeLoyalty:
    return FakeLoyalty(clock)
