"""Registrations on a ledger, with a Splio that lets them wait."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import cast

from prometheus_client import CollectorRegistry

from consumers.register_member import RegisterMember
from service.checkout.arrival import Arrival
from service.checkout.cards import Programs
from service.checkout.registration import RegistrationConfig, Registrations
from service.domain.call_planning import CallPlanner, CallPolicy
from service.domain.effects import RenderedRequest
from service.domain.errors import RetryableError
from service.domain.events import Customer
from service.domain.loyalty import Contact, LoyaltySplio, Registered
from service.domain.planning import ContactKey
from service.domain.ports import Permit
from service.ledger.sqlite import open_sqlite_ledger
from service.splio.requests import SplioRenderer
from service.telemetry.metrics import Metrics
from tests.contract.ledger_fixture import CONFIG
from tests.fakes.clock import FakeClock
from tests.fakes.splio import FakeSplio, FreePermit

CAMILLE = Customer("7", None, "camille@example.com", None, "Camille", "Roy", False, False)
TIMEOUT_S = 3.0
LEASE_MARGIN_S = 20.0


class SlowLoyalty:
    """A Splio that knows the contact and makes it a member; permits take `waits_s`, in turn."""

    def __init__(self, clock: FakeClock, waits_s: Sequence[float]) -> None:
        self._clock = clock
        self._waits_s = iter(waits_s)
        self.made_at_s: list[float] = []

    async def checkout_permit(self) -> Permit:
        self._clock.advance(next(self._waits_s))
        return FreePermit()

    async def read_contact(
        self, key: str, *, is_internal: bool = False, deadline_s: float, traceparent: str
    ) -> Contact | None:
        self._refuse_late(deadline_s)
        return Contact(key, key, ())

    async def read_program(
        self, program: str, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> None:
        permit.hand_back()
        self._refuse_late(deadline_s)

    async def create_member(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Registered:
        self._refuse_late(deadline_s)
        self.made_at_s.append(self._clock.monotonic_s())
        return Registered("2171707962088", 201)

    def _refuse_late(self, deadline_s: float) -> None:
        if self._clock.monotonic_s() > deadline_s:
            raise RetryableError("deadline_passed")


async def register(tmp_path: Path, *waits_s: float) -> SlowLoyalty:
    """Register once, and let the attempt come to its end."""
    clock = FakeClock()
    loyalty = SlowLoyalty(clock, waits_s)
    port = cast(LoyaltySplio, loyalty)
    async with open_sqlite_ledger(
        tmp_path / "ledger.db", config=CONFIG, clock=clock, metrics=Metrics(CollectorRegistry())
    ) as ledger:
        registrations = Registrations(
            ledger,
            port,
            RegisterMember(FakeSplio(clock), port, clock),
            CallPlanner(CallPolicy("main"), SplioRenderer()),
            Programs({"club": 1}),
            config=RegistrationConfig(ContactKey.EMAIL, TIMEOUT_S, LEASE_MARGIN_S),
            clock=clock,
            random_=Random(7),
        )
        with suppress(RetryableError):
            await registrations.register(
                CAMILLE,
                "club",
                Arrival("call-1", clock.now_ms(), "", deadline_s=TIMEOUT_S),
                language=None,
            )
        await registrations.close()
    return loyalty


async def test_registration_makes_a_card(tmp_path: Path) -> None:
    assert len((await register(tmp_path, 0.1, 0.1)).made_at_s) == 1


async def test_registration_that_waited_before_its_claim_makes_a_card(tmp_path: Path) -> None:
    assert len((await register(tmp_path, TIMEOUT_S + LEASE_MARGIN_S, 0.1)).made_at_s) == 1


async def test_registration_that_waited_within_its_claim_makes_no_card_beyond_it(
    tmp_path: Path,
) -> None:
    """Another process may have begun anew by then, and two cards cannot be made one again."""
    assert (await register(tmp_path, 0.1, TIMEOUT_S + LEASE_MARGIN_S)).made_at_s == []
