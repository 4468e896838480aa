"""What the tests of the consumers share: fakes that keep to one clock."""

import pytest

from service.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock
from tests.fakes.ledger import FakeLedger
from tests.fakes.log import FakeLog
from tests.fakes.splio import FakeSplio
from tests.unit.consumers.dispatching import Bench


@pytest.fixture
def ledger(clock: FakeClock) -> FakeLedger:
    return FakeLedger(clock)


@pytest.fixture
def splio(clock: FakeClock) -> FakeSplio:
    return FakeSplio(clock)


@pytest.fixture
def log(clock: FakeClock) -> FakeLog:
    return FakeLog(clock)


@pytest.fixture
def bench(ledger: FakeLedger, splio: FakeSplio, clock: FakeClock, metrics: Metrics) -> Bench:
    return Bench(ledger, splio, clock, metrics)
