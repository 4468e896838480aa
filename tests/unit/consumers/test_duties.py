"""Duties: one of many processes does a chore, by a lease that it keeps or loses."""

import pytest

from consumers.duties import LEASE_S, LeasedDuty
from service.domain.errors import LedgerUnavailableError
from service.domain.ledger import Chore
from service.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock
from tests.fakes.metrics import value


class Leases:
    """Answers `hold_duty` as a script says."""

    def __init__(self) -> None:
        self.is_free = True
        self.is_away = False
        self.asked: list[tuple[Chore, float]] = []

    async def hold_duty(self, chore: Chore, *, lease_s: float) -> bool:
        self.asked.append((chore, lease_s))
        if self.is_away:
            raise LedgerUnavailableError("not_reachable")
        return self.is_free

    async def release_duties(self) -> None:
        raise AssertionError("the composition root does that")


@pytest.fixture
def leases() -> Leases:
    return Leases()


@pytest.fixture
def duty(leases: Leases, clock: FakeClock, metrics: Metrics) -> LeasedDuty:
    return LeasedDuty(leases, Chore.PURGE, clock=clock, metrics=metrics)


async def test_a_lease_is_renewed_long_before_it_ends(
    duty: LeasedDuty, leases: Leases, clock: FakeClock, metrics: Metrics
) -> None:
    for _ in range(100):
        assert await duty.held()
        clock.advance(0.1)
    assert {lease_s for _, lease_s in leases.asked} == {LEASE_S}
    assert 4 <= len(leases.asked) <= 6
    assert value(metrics, "relay_duty_held", duty="purge") == 1


async def test_a_chore_with_long_rounds_has_a_longer_lease(
    leases: Leases, clock: FakeClock, metrics: Metrics
) -> None:
    duty = LeasedDuty(leases, Chore.HOLDS, clock=clock, metrics=metrics, lease_s=20.0)
    assert await duty.held()
    assert leases.asked == [(Chore.HOLDS, 20.0)]


async def test_what_another_process_has_is_asked_for_again(
    duty: LeasedDuty, leases: Leases, clock: FakeClock, metrics: Metrics
) -> None:
    leases.is_free = False
    assert not await duty.held()
    assert value(metrics, "relay_duty_held", duty="purge") == 0
    leases.is_free = True
    clock.advance(LEASE_S)
    assert await duty.held()


async def test_a_ledger_that_is_away_leaves_no_duty_behind(
    duty: LeasedDuty, leases: Leases, clock: FakeClock, metrics: Metrics
) -> None:
    assert await duty.held()
    leases.is_away = True
    clock.advance(LEASE_S)
    with pytest.raises(LedgerUnavailableError):
        await duty.held()
    assert value(metrics, "relay_duty_held", duty="purge") == 0
    leases.is_away = False
    assert await duty.held()
