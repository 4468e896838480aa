"""Cards: good ones have the form, are of the programme and have not expired."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from service.checkout.arrival import Arrival
from service.checkout.cards import Cards, Programs
from service.domain.cards import CardForm
from service.domain.errors import NotFoundError, RetryableError
from service.domain.loyalty import Contact, Member
from service.domain.ports import Operation
from tests.fakes.clock import START_MS, FakeClock
from tests.fakes.loyalty import FakeLoyalty
from tests.unit.builders import TRACEPARENT

CARD = "2171707962088"
NOW = datetime.fromtimestamp(START_MS / 1000, UTC)
EMAIL = "camille@example.com"
MEMBER = Member(CARD, "1", joined_at=NOW, expires_at=None, email=EMAIL, contact_id="77")
CONTACT = Contact(unique_key=EMAIL, email=EMAIL, cards=((CARD, "1"),))
ARRIVAL = Arrival("call-1", START_MS, TRACEPARENT, deadline_s=2.75)
PROGRAMS = Programs({"club": 1, "other": 2})


@pytest.fixture
def cards(splio: FakeLoyalty, clock: FakeClock) -> Cards:
    splio.members[CARD] = MEMBER
    return Cards(splio, PROGRAMS, form=CardForm(ean13=True), clock=clock)


async def is_good(cards: Cards, card: str = CARD, program: str = "club") -> bool:
    return await cards.is_good(card, program, ARRIVAL)


async def is_of(cards: Cards, email: str = EMAIL, program: str = "club") -> bool:
    return await cards.belongs_to(CARD, email, program, ARRIVAL)


async def test_card_of_a_member_is_good(cards: Cards, splio: FakeLoyalty) -> None:
    assert await is_good(cards)
    assert splio.permits_out == 0


async def test_card_without_the_form_is_not_asked_about(cards: Cards, splio: FakeLoyalty) -> None:
    assert not await is_good(cards, "2171707962081")
    assert splio.taken == 0


async def test_card_that_splio_does_not_know_is_not_good(cards: Cards) -> None:
    assert not await is_good(cards, "4006381333931")


async def test_card_of_another_programme_is_not_good(cards: Cards) -> None:
    assert not await is_good(cards, program="other")
    assert not await is_of(cards, program="other")


async def test_unknown_programme_is_told(cards: Cards, splio: FakeLoyalty) -> None:
    with pytest.raises(NotFoundError, match="unknown_program"):
        await is_good(cards, program="club2")
    assert splio.taken == 0


@pytest.mark.parametrize(
    ("expires_at", "good"),
    [
        (NOW - timedelta(seconds=1), False),
        (NOW, False),
        (NOW + timedelta(milliseconds=1), True),
        (datetime(9998, 12, 31, tzinfo=UTC), True),
        (None, True),
    ],
)
async def test_card_is_good_until_it_expires(
    cards: Cards, splio: FakeLoyalty, expires_at: datetime | None, good: bool
) -> None:
    splio.members[CARD] = replace(MEMBER, expires_at=expires_at)
    assert await is_good(cards) is good
    assert await is_of(cards) is good


@pytest.mark.parametrize(
    ("email", "same"),
    [(EMAIL, True), (" Camille@EXAMPLE.com ", True), ("ada@example.com", False), ("", False)],
)
async def test_card_belongs_to_the_member_with_this_email(
    cards: Cards, splio: FakeLoyalty, email: str, same: bool
) -> None:
    assert await is_of(cards, email) is same
    assert not splio.subjects(Operation.READ_CONTACT)


async def test_email_that_the_member_does_not_show_is_the_contacts(
    cards: Cards, splio: FakeLoyalty
) -> None:
    splio.members[CARD] = replace(MEMBER, email=None)
    splio.contacts["77"] = CONTACT
    assert await is_of(cards)
    assert not await is_of(cards, "ada@example.com")
    assert splio.subjects(Operation.READ_CONTACT) == ["77", "77"]


@pytest.mark.parametrize(
    ("contact_id", "contact"),
    [(None, None), ("77", None), ("77", replace(CONTACT, email=None))],
)
async def test_card_without_a_known_email_belongs_to_nobody(
    cards: Cards, splio: FakeLoyalty, contact_id: str | None, contact: Contact | None
) -> None:
    splio.members[CARD] = replace(MEMBER, email=None, contact_id=contact_id)
    if contact is not None:
        splio.contacts["77"] = contact
    assert not await is_of(cards)
    assert not await is_of(cards, "")


async def test_errors_of_splio_are_no_answer(cards: Cards, splio: FakeLoyalty) -> None:
    splio.errors[Operation.READ_MEMBER].append(RetryableError("no_answer"))
    with pytest.raises(RetryableError, match="no_answer"):
        await is_good(cards)
    assert splio.permits_out == 0


@pytest.mark.parametrize(("programs", "only"), [({"club": 1}, "club"), ({"a": 1, "b": 2}, None)])
def test_one_programme_is_what_a_call_without_one_means(
    programs: dict[str, int], only: str | None
) -> None:
    assert Programs(programs).only == only
