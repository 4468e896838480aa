"""Registrations: one customer, one card, one attempt at a time, and its outcome is recorded."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from consumers.register_member import RegisterMember
from service.checkout.arrival import Arrival
from service.checkout.cards import Programs
from service.checkout.registration import Card, RegistrationConfig, Registrations
from service.domain.call_planning import CallPlanner, CallPolicy
from service.domain.effects import Outcome, State
from service.domain.errors import (
    InDoubtError,
    NotFoundError,
    PermanentError,
    RelayError,
    RetryableError,
)
from service.domain.loyalty import Contact, LoyaltyProgram, Member
from service.domain.planning import ContactKey
from service.domain.ports import Operation
from service.splio.requests import SplioRenderer
from tests.fakes.checkout_ledger import FakeCheckoutLedger
from tests.fakes.clock import START_MS, FakeClock
from tests.fakes.ledger import Row
from tests.fakes.loyalty import FakeLoyalty
from tests.fakes.splio import FakeSplio
from tests.fakes.waiting import settle_down, until
from tests.unit.builders import TRACEPARENT, make_customer

TIMEOUT_S = 3.0
LEASE_MARGIN_S = 20.0
EMAIL = "ada@example.com"
PROGRAM = LoyaltyProgram(is_running=True, subscribes_automatically=False, points_to_amount=None)
CONTACT = Contact(unique_key=EMAIL, email=EMAIL, cards=())


class Counter:
    """A counter of a shop where customers register, over fakes."""

    def __init__(
        self,
        clock: FakeClock,
        ledger: FakeCheckoutLedger,
        splio: FakeLoyalty,
        contact_key: ContactKey = ContactKey.EMAIL,
    ) -> None:
        self.clock, self.ledger, self.splio = clock, ledger, splio
        splio.programs["1"] = PROGRAM
        splio.contacts[EMAIL] = CONTACT
        self.contacts = FakeSplio(clock)
        self.registrations = Registrations(
            ledger,
            splio,
            RegisterMember(self.contacts, splio, clock),
            CallPlanner(CallPolicy("main"), SplioRenderer()),
            Programs({"club": 1}),
            config=RegistrationConfig(contact_key, TIMEOUT_S, LEASE_MARGIN_S),
            clock=clock,
            random_=random.Random(1),
        )

    async def register(self, program: str = "club", **customer: Any) -> Card:
        deadline_s = self.clock.monotonic_s() + TIMEOUT_S
        return await self.registrations.register(
            make_customer(**customer),
            program,
            Arrival("call-1", START_MS, TRACEPARENT, deadline_s),
            language="fr",
        )

    def come(self) -> asyncio.Task[Card]:
        """A customer who waits at the counter."""
        return asyncio.create_task(self.register(), name="customer")

    @property
    def row(self) -> Row:
        """The one effect there is."""
        (row,) = self.ledger.rows.values()
        return row

    def state(self) -> State:
        return self.row.state

    def made(self) -> int:
        return len(self.splio.subjects(Operation.CREATE_MEMBER))


@pytest.fixture
async def counter(
    clock: FakeClock, ledger: FakeCheckoutLedger, splio: FakeLoyalty
) -> AsyncIterator[Counter]:
    counter = Counter(clock, ledger, splio)
    yield counter
    await counter.registrations.close()
    await settle_down()
    assert splio.permits_out == 0


def member(card: str, joined_at: datetime | None) -> Member:
    return Member(card, "1", joined_at, None, EMAIL, "77")


async def test_customer_gets_a_card_and_later_the_same(counter: Counter) -> None:
    assert await counter.register() == Card("card-1", is_new=True)
    assert await counter.register() == Card("card-1", is_new=False)
    assert counter.made() == 1
    assert counter.state() is State.APPLIED


async def test_key_of_the_effect_tells_nothing_of_the_customer(counter: Counter) -> None:
    await counter.register()
    key = counter.row.effect.key
    assert key.startswith("main:member:1:")
    assert "ada" not in key
    (call,) = counter.ledger.calls
    assert b"ada" not in call.body.lower()
    await counter.register(email="ADA@example.com")
    assert counter.ledger.called["record_call"] == 1


async def test_customer_without_a_contact_is_made_one(counter: Counter) -> None:
    del counter.splio.contacts[EMAIL]
    assert (await counter.register()).is_new
    (created,) = counter.contacts.calls
    assert b'"ada@example.com"' in created.body


@pytest.mark.parametrize(
    ("joined", "card"),
    [
        ({"b": 2020, "a": 2021, "c": 2019}, "c"),
        ({"b": 2020, "a": None, "c": 2020}, "b"),
        ({"b": None, "a": None}, "b"),
        ({"b": None, "a": 2021}, "a"),
        ({"b": 2021, "gone": 0, "a": 2020}, "a"),
    ],
)
async def test_of_several_cards_the_one_that_joined_first_is_the_customers(
    counter: Counter, joined: dict[str, int | None], card: str
) -> None:
    """Else the first in Splio's order; one of another programme is none."""
    cards = (("z", "2"), *((name, "1") for name in joined))
    counter.splio.contacts[EMAIL] = replace(CONTACT, cards=cards)
    for name, year in joined.items():
        if year != 0:
            at = datetime(year, 1, 1, tzinfo=UTC) if year else None
            counter.splio.members[name] = member(name, at)
    assert await counter.register() == Card(card, is_new=False)
    assert not counter.ledger.rows


async def test_only_the_first_five_cards_are_compared(counter: Counter) -> None:
    names = [f"card-{number}" for number in range(9)]
    cards = tuple((name, "1") for name in names)
    counter.splio.contacts[EMAIL] = replace(CONTACT, cards=cards)
    assert (await counter.register()).number == "card-0"
    assert counter.splio.subjects(Operation.READ_MEMBER) == names[:5]


@pytest.mark.parametrize(
    ("contact_key", "field"),
    [
        (ContactKey.EMAIL, "email"),
        (ContactKey.CELLPHONE, "cellphone"),
        (ContactKey.CUSTOMER_ID, "customer_id"),
        (ContactKey.REFERENCE_KEY, "reference_key"),
    ],
)
async def test_customer_without_the_contact_key_is_refused(
    clock: FakeClock,
    ledger: FakeCheckoutLedger,
    splio: FakeLoyalty,
    contact_key: ContactKey,
    field: str,
) -> None:
    counter = Counter(clock, ledger, splio, contact_key)
    for missing in (None, ""):
        customer: dict[str, Any] = {field: missing}
        with pytest.raises(PermanentError, match="contact_key_missing") as caught:
            await counter.register(**customer)
        assert caught.value.detail == contact_key
    assert not splio.asked and not ledger.calls


async def test_unknown_programme_is_told(counter: Counter) -> None:
    with pytest.raises(NotFoundError, match="unknown_program"):
        await counter.register("nobody")


async def test_repeat_while_the_first_is_under_way_is_told_to_come_again(
    counter: Counter,
) -> None:
    counter.splio.permits_left = 0
    first = counter.come()
    await until(lambda: counter.splio.waiting)
    with pytest.raises(RetryableError, match="registration_under_way"):
        await counter.register()
    counter.splio.give_permits(2)
    assert await first == Card("card-1", is_new=True)
    assert await counter.register() == Card("card-1", is_new=False)
    assert counter.made() == 1


async def test_permit_is_taken_before_the_claim(counter: Counter) -> None:
    """However long the lane is busy, the lease outlasts the request."""
    counter.splio.permits_left = 0
    first = counter.come()
    await until(lambda: counter.splio.waiting)
    await settle_down()
    assert counter.state() is State.DUE
    counter.clock.advance(TIMEOUT_S + LEASE_MARGIN_S + 1)
    counter.splio.give_permits(2)
    assert await first == Card("card-1", is_new=True)
    (settlement,) = counter.row.settlements
    assert settlement.outcome is Outcome.APPLIED
    lease_left_ms = counter.row.lease_until_ms - counter.clock.now_ms()
    assert lease_left_ms >= TIMEOUT_S * 1000


async def test_slow_commit_of_the_claim_is_within_the_deadline(counter: Counter) -> None:
    """Else the request could be under way for longer than its lease allows for."""
    counter.ledger.claims_go.clear()
    first = counter.come()
    await until(lambda: counter.splio.taken)
    await settle_down()
    counter.clock.advance(TIMEOUT_S)
    counter.ledger.claims_go.set()
    with pytest.raises(RetryableError, match="deadline_passed"):
        await first
    assert counter.made() == 0
    assert counter.state() is State.DUE


async def test_effect_that_another_took_meanwhile_is_left_to_it(counter: Counter) -> None:
    counter.splio.permits_left = 0
    first = counter.come()
    await until(lambda: counter.splio.waiting)
    await counter.ledger.claim(counter.row.effect, lease_s=10)
    counter.splio.give_permits(1)
    with pytest.raises(RetryableError, match="registration_under_way"):
        await first
    assert counter.made() == 0
    assert counter.splio.handed_back == 1


async def test_card_that_was_there_when_it_was_tried_is_no_new_one(counter: Counter) -> None:
    counter.splio.permits_left = 0
    first = counter.come()
    await until(lambda: counter.splio.waiting)
    counter.splio.contacts[EMAIL] = replace(CONTACT, cards=(("theirs", "1"),))
    counter.splio.give_permits(1)
    assert await first == Card("theirs", is_new=False)
    assert counter.state() is State.DUPLICATE


async def test_customer_who_was_refused_may_try_again(counter: Counter) -> None:
    counter.splio.errors[Operation.CREATE_MEMBER].append(PermanentError("refused", status=400))
    with pytest.raises(PermanentError, match="refused"):
        await counter.register()
    assert counter.state() is State.REJECTED
    assert await counter.register() == Card("card-2", is_new=True)
    assert counter.state() is State.APPLIED


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (RetryableError("not_connected"), State.DUE),
        (InDoubtError("no_answer"), State.IN_DOUBT),
    ],
)
async def test_attempt_that_failed_is_the_consumers(
    counter: Counter, error: RelayError, state: State
) -> None:
    counter.splio.errors[Operation.CREATE_MEMBER].append(error)
    with pytest.raises(type(error)):
        await counter.register()
    assert counter.state() is state
    with pytest.raises(RetryableError, match="registration_under_way"):
        await counter.register()
    assert counter.made() == 1


async def test_programme_that_subscribes_by_itself_is_waited_for(counter: Counter) -> None:
    """With a contact that is made by this very registration."""
    del counter.splio.contacts[EMAIL]
    counter.splio.programs["1"] = replace(PROGRAM, subscribes_automatically=True)
    with pytest.raises(RetryableError, match="registration_under_way"):
        await counter.register()
    assert counter.state() is State.DUE
    assert counter.made() == 0


async def test_attempt_goes_on_when_its_caller_gives_up(counter: Counter) -> None:
    counter.splio.permits_left = 2
    asking = counter.come()
    await until(lambda: counter.ledger.rows)
    counter.splio.go.clear()
    await until(lambda: counter.splio.subjects(Operation.READ_PROGRAM))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    counter.splio.go.set()
    await until(lambda: counter.state() is State.APPLIED)
    assert await counter.register() == Card("card-1", is_new=False)
    assert counter.made() == 1


async def test_outcome_is_written_until_it_is_written(counter: Counter) -> None:
    counter.ledger.unavailable["settle"] = 2
    asking = counter.come()
    for _ in range(2):
        await until(lambda: counter.clock.sleeping)
        await settle_down()
        counter.clock.advance(0.5)
    assert await asking == Card("card-1", is_new=True)
    assert counter.ledger.called["settle"] == 3


async def test_close_leaves_an_attempt_with_its_claim(counter: Counter) -> None:
    """It is looked up later."""
    asking = counter.come()
    await until(lambda: counter.ledger.rows)
    counter.splio.go.clear()
    await until(lambda: counter.state() is State.ATTEMPTING)
    await settle_down()
    await counter.registrations.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert counter.state() is State.ATTEMPTING
    assert not counter.row.settlements
