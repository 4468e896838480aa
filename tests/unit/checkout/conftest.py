"""What the tests of the checkout share: a ledger in memory and a Splio behind it."""

import pytest

from tests.fakes.checkout_ledger import FakeCheckoutLedger
from tests.fakes.clock import FakeClock
from tests.fakes.loyalty import FakeLoyalty


@pytest.fixture
def ledger(clock: FakeClock) -> FakeCheckoutLedger:
    return FakeCheckoutLedger(clock)


@pytest.fixture
def splio(clock: FakeClock) -> FakeLoyalty:
    return FakeLoyalty(clock)
