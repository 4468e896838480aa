"""Making a member: what each answer means, and that nothing is waited for beyond its deadline."""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import orjson
import pytest

from consumers.handlers import Ended
from consumers.register_member import RegisterMember
from service.domain.effects import Kind, Outcome, RenderedRequest
from service.domain.errors import (
    InDoubtError,
    LanePausedError,
    PermanentError,
    RelayError,
    RetryableError,
)
from service.domain.ledger import Claim
from service.domain.loyalty import Contact, LoyaltyProgram, Member
from service.domain.ports import Operation
from tests.fakes.clock import START_MS, FakeClock
from tests.fakes.loyalty import FakeLoyalty
from tests.fakes.splio import FakeSplio
from tests.fakes.waiting import until
from tests.unit.builders import CONTACT, make_claim, make_ready

EMAIL: Final = "a@example.com"
TIMEOUT_S: Final = 10.0
DAY_MS: Final = 24 * 3_600_000
UNDOCUMENTED: Final = LanePausedError("unknown_refusal", "400 cellphone", status=400)
REQUEST: Final = RenderedRequest(
    path="/loyalty/members",
    body=orjson.dumps({"program_id": 1, "contact_id": EMAIL}),
    prerequisites=(CONTACT,),
)
EFFECT: Final = replace(make_ready(kind=Kind.MEMBER, points=0), request=REQUEST)
# Of a contact that is not there, in their order.
REQUESTS: Final = (
    Operation.READ_PROGRAM,
    Operation.READ_CONTACT,
    Operation.CREATE_CONTACT,
    Operation.CREATE_MEMBER,
)


@dataclass
class Bench:
    """The handler over fakes; every permit is used or handed back in the end."""

    clock: FakeClock
    contacts: FakeSplio
    splio: FakeLoyalty
    handler: RegisterMember

    async def attempt(self, claim: Claim) -> tuple[Ended, str | None]:
        permit = await self.splio.checkout_permit()
        try:
            return await self.handler.register(
                claim, permit=permit, deadline_s=self.clock.monotonic_s() + TIMEOUT_S
            )
        finally:
            assert self.splio.permits_out == 0

    def fail(self, operation: Operation, error: RelayError) -> None:
        """Answer the next of these so."""
        if operation is Operation.CREATE_CONTACT:
            self.contacts.answer(operation, error)
        else:
            self.splio.errors[operation].append(error)


@pytest.fixture
def bench(clock: FakeClock) -> Bench:
    contacts, splio = FakeSplio(clock), FakeLoyalty(clock)
    splio.programs["1"] = LoyaltyProgram(
        is_running=True, subscribes_automatically=False, points_to_amount=None
    )
    return Bench(clock, contacts, splio, RegisterMember(contacts, splio, clock))


@pytest.mark.parametrize("operation", REQUESTS)
@pytest.mark.parametrize(("was_in_doubt", "error"), [(False, RetryableError), (True, InDoubtError)])
async def test_undocumented_refusal_is_the_customers_and_not_the_lanes(
    bench: Bench, operation: Operation, was_in_doubt: bool, error: type[RelayError]
) -> None:
    """A pause would hold all bookings, each time that it is tried again."""
    bench.fail(operation, UNDOCUMENTED)

    with pytest.raises(error, match="unknown_refusal") as caught:
        await bench.attempt(make_claim(EFFECT, was_in_doubt=was_in_doubt))

    assert caught.value.detail == "400 cellphone"


@pytest.mark.parametrize("operation", REQUESTS)
async def test_refused_key_is_the_lanes(bench: Bench, operation: Operation) -> None:
    bench.fail(operation, LanePausedError("authentication_failed"))

    with pytest.raises(LanePausedError, match="authentication_failed"):
        await bench.attempt(make_claim(EFFECT))


@pytest.mark.parametrize("was_in_doubt", [False, True])
async def test_customer_who_is_refused_for_a_day_is_given_up(
    bench: Bench, was_in_doubt: bool
) -> None:
    first_ms = START_MS - DAY_MS - 1
    claim = make_claim(EFFECT, first_attempt_at_ms=first_ms, was_in_doubt=was_in_doubt)

    with pytest.raises(PermanentError, match="too_old"):
        await bench.attempt(claim)

    assert bench.splio.asked == []


async def test_permit_in_hand_is_used_before_any_other_is_waited_for(bench: Bench) -> None:
    """It may be the probe of an open breaker, and nobody gets another before the probe ended."""
    bench.splio.go.clear()
    attempt = asyncio.create_task(bench.attempt(make_claim(EFFECT)))
    await until(lambda: bench.splio.asked)
    assert bench.splio.permits_out == 0
    bench.splio.go.set()

    ended, card = await attempt

    assert (ended.settlement.outcome, card) == (Outcome.APPLIED, "card-1")
    assert bench.splio.taken == 2


async def test_contact_is_waited_for_until_the_deadline(bench: Bench) -> None:
    """The lane of contacts may be busy for longer than the lease lasts."""
    bench.contacts.held[Operation.CREATE_CONTACT] = asyncio.Event()
    attempt = asyncio.create_task(bench.attempt(make_claim(EFFECT)))
    await until(lambda: bench.contacts.under_way)
    bench.clock.advance(TIMEOUT_S)

    with pytest.raises(RetryableError, match="deadline_passed"):
        await attempt

    assert bench.splio.subjects(Operation.CREATE_MEMBER) == []


async def test_permit_is_waited_for_until_the_deadline(bench: Bench) -> None:
    bench.splio.permits_left = 1
    attempt = asyncio.create_task(bench.attempt(make_claim(EFFECT)))
    await until(lambda: bench.splio.waiting)
    bench.clock.advance(TIMEOUT_S)

    with pytest.raises(RetryableError, match="deadline_passed"):
        await attempt

    assert bench.splio.subjects(Operation.CREATE_MEMBER) == []


async def test_of_several_cards_the_oldest_is_the_customers(bench: Bench) -> None:
    """The customer is told the same card, whoever finds it."""
    bench.splio.contacts[EMAIL] = Contact(EMAIL, EMAIL, cards=(("b", "1"), ("a", "1"), ("z", "2")))
    for name, year in (("b", 2021), ("a", 2020)):
        joined_at = datetime(year, 1, 1, tzinfo=UTC)
        bench.splio.members[name] = Member(name, "1", joined_at, None, EMAIL, "77")

    ended, card = await bench.attempt(make_claim(EFFECT))

    assert (ended.settlement.outcome, card) == (Outcome.DUPLICATE, "a")
