"""Reading members, contacts, programmes and balances, in the shapes that Splio documents."""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.loyalty import Contact, LoyaltyProgram, Member
from service.domain.planning import ContactKey
from service.splio.members import (
    balance_path,
    contact_path,
    member_path,
    program_path,
    read_balance,
    read_contact,
    read_member,
    read_program,
)
from service.splio.readback import UnreadableReplyError, parse_exact

PARIS = ZoneInfo("Europe/Paris")
CARD = "2171707962088"

BALANCE: dict[str, Any] = {
    "pending": {
        "nq_points": {
            "next_movement": {"date": "2026-11-28 18:22:31", "value": 177},
            "total": 177,
        },
        "q_points": {"next_movement": None, "total": 0},
    },
    "remaining": {
        "nq_points": {"next_movement": None, "total": 2500},
        "q_points": {"next_movement": None, "total": 30},
    },
}
MEMBER: dict[str, Any] = {
    "id": 9,
    "card_code": CARD,
    "program_joined_at": "2024-02-11 10:00:12",
    "card_expire_at": None,
    "q_point": 0,
    "nq_point": 2500,
    "individual": {
        "id": 2205883,
        "name": "Roux",
        "firstname": "Camille",
        "email": "Camille.Roux@Example.com",
        "fields": [{"id": 0, "name": "scayle_customer_id", "value": "48213"}],
    },
    "program": {"id": 1, "name": "Club", "status": "running"},
    "tier": None,
    "fields": [],
}
CONTACT: dict[str, Any] = {
    "id": 2205883,
    "lastname": "Roux",
    "firstname": "Camille",
    "email": "Camille.Roux@Example.com",
    "cellphone": "+33612345678",
    "custom_fields": [
        {"id": 5, "name": "last_visit", "value": "2026-11-14 10:00:00", "data_type": "date"},
        {"id": 0, "name": "scayle_customer_id", "value": "48213", "data_type": "text"},
    ],
    "lists": [{"id": 25, "name": "newsletter"}],
    "loyalty": [{"card_code": CARD, "id_program": "1"}],
}
PROGRAM: dict[str, Any] = {
    "id": 1,
    "name": "Club",
    "status": "running",
    "default_points_to_amount_ratio": 10,
    "automatic_subscription": True,
}


def exact(document: dict[str, Any]) -> dict[str, Any]:
    """As the client reads it: without `...` fields, numbers as they were sent."""
    return parse_exact(json.dumps({k: v for k, v in document.items() if v is not ...}).encode())


def remaining(total: str) -> dict[str, Any]:
    return parse_exact(f'{{"remaining":{{"nq_points":{{"total":{total}}}}}}}'.encode())


def member(**changes: Any) -> Member:
    return read_member(exact(MEMBER | changes), card=CARD, timezone=PARIS)


def contact(
    key: str = "camille.roux@example.com",
    contact_key: ContactKey = ContactKey.EMAIL,
    *,
    is_internal: bool = False,
    **changes: Any,
) -> Contact:
    return read_contact(
        exact(CONTACT | changes), key=key, is_internal=is_internal, contact_key=contact_key
    )


def program(**changes: Any) -> LoyaltyProgram:
    return read_program(exact(PROGRAM | changes), program="1")


def test_balance_is_what_remains_of_the_points_that_buy_rewards() -> None:
    assert read_balance(exact(BALANCE)) == 2500


@pytest.mark.parametrize(
    ("total", "points"),
    [("0", 0), ("-3", -3), ("2500.0", 2500), ('"2500"', 2500), ("9007199254740991", 2**53 - 1)],
)
def test_balance_is_a_whole_number_and_exact(total: str, points: int) -> None:
    assert read_balance(remaining(total)) == points


@pytest.mark.parametrize(
    "total",
    ["2500.5", "null", "true", '""', '"many"', "[]", "{}", "NaN", "1e30", "1" * 30, "-1e16"],
)
def test_no_number_is_no_balance(total: str) -> None:
    with pytest.raises(UnreadableReplyError):
        read_balance(remaining(total))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"remaining": None},
        {"remaining": []},
        {"remaining": {"q_points": {"total": 1}}},
        {"remaining": {"nq_points": 2500}},
        {"pending": {"nq_points": {"total": 1}}},
        {"nq_point": 2500},
        MEMBER,
    ],
)
def test_other_reply_is_no_balance(document: dict[str, Any]) -> None:
    with pytest.raises(UnreadableReplyError):
        read_balance(exact(document))


def test_member_is_read_with_its_holder() -> None:
    assert member() == Member(
        card=CARD,
        program="1",
        joined_at=datetime(2024, 2, 11, 9, 0, 12, tzinfo=UTC),
        expires_at=None,
        email="camille.roux@example.com",
        contact_id="2205883",
    )


@pytest.mark.parametrize("individual", [None, ..., [], {}, {"id": None, "email": ""}])
def test_card_may_be_without_a_contact(individual: Any) -> None:
    found = member(individual=individual)

    assert (found.contact_id, found.email) == (None, None)


@pytest.mark.parametrize("changes", [{"card_code": int(CARD)}, {"program": {"id": "1"}}])
def test_ids_of_a_member_may_be_numbers_or_text(changes: dict[str, Any]) -> None:
    assert (member(**changes).card, member(**changes).program) == (CARD, "1")


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("9998-12-31 00:00:00", datetime(9998, 12, 30, 23, tzinfo=UTC)),
        ("2027-07-01 01:05:09", datetime(2027, 6, 30, 23, 5, 9, tzinfo=UTC)),
        ("2027-7-1 1:05:09", datetime(2027, 6, 30, 23, 5, 9, tzinfo=UTC)),
    ],
)
def test_expiry_is_local_to_the_universe(text: str, at: datetime) -> None:
    assert member(card_expire_at=text).expires_at == at


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/New_York", "Europe/Paris", "UTC"])
@pytest.mark.parametrize(
    ("text", "year"),
    [("9998-12-31 23:59:59", 9998), ("9999-12-31 23:59:59", 9999), ("0001-01-01 00:00:00", 1)],
)
def test_end_of_the_calendar_does_not_overflow(zone: str, text: str, year: int) -> None:
    found = read_member(
        exact(MEMBER | {"card_expire_at": text}), card=CARD, timezone=ZoneInfo(zone)
    )

    assert found.expires_at is not None
    assert abs(found.expires_at.year - year) <= 1


@pytest.mark.parametrize("never", [None, "", ...])
def test_expiry_that_is_not_told_is_none(never: Any) -> None:
    assert member(card_expire_at=never).expires_at is None


@pytest.mark.parametrize(
    "text",
    [
        "2027-02-30 00:00:00",
        "2027-01-01",
        "2027-01-01T00:00:00Z",
        "0000-00-00 00:00:00",
        "never",
        20270101,
        True,
        False,
        0,
        [],
        {"date": "2027-01-01 00:00:00"},
    ],
)
def test_expiry_that_cannot_be_read_is_not_taken_for_never(text: Any) -> None:
    with pytest.raises(UnreadableReplyError):
        member(card_expire_at=text)


@pytest.mark.parametrize("text", ["yesterday", None, ..., "2024-13-01 00:00:00", 5])
def test_joining_date_that_cannot_be_read_is_not_told(text: Any) -> None:
    assert member(program_joined_at=text).joined_at is None


def test_joining_date_may_have_the_spelling_of_a_creation() -> None:
    found = member(program_joined_at=..., program_join_at="2024-02-11 10:00:12")

    assert found.joined_at == datetime(2024, 2, 11, 9, 0, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "changes",
    [
        {"card_code": "0000000000000"},
        {"card_code": None},
        {"card_code": ...},
        {"card_code": [CARD]},
        {"program": None},
        {"program": ...},
        {"program": []},
        {"program": {"id": None}},
        {"program": {"id": True}},
        {"program": "Club"},
    ],
)
def test_other_card_or_none_of_a_program_is_no_member(changes: dict[str, Any]) -> None:
    with pytest.raises(UnreadableReplyError):
        member(**changes)


def test_contact_is_read_with_its_cards_in_their_order() -> None:
    loyalty = [{"card_code": "2", "id_program": "7"}, {"card_code": 1, "id_program": 3}]

    assert contact(loyalty=loyalty) == Contact(
        unique_key="Camille.Roux@Example.com",
        email="camille.roux@example.com",
        cards=(("2", "7"), ("1", "3")),
    )


@pytest.mark.parametrize(
    ("contact_key", "key", "unique_key"),
    [
        (ContactKey.EMAIL, "CAMILLE.ROUX@example.com", "Camille.Roux@Example.com"),
        (ContactKey.CELLPHONE, "0033612345678", "+33612345678"),
        (ContactKey.CUSTOMER_ID, "48213", "48213"),
        (ContactKey.REFERENCE_KEY, "R-7", None),
    ],
)
def test_unique_key_is_where_the_universe_has_it(
    contact_key: ContactKey, key: str, unique_key: str | None
) -> None:
    assert contact(key, contact_key).unique_key == unique_key
    assert contact("2205883", contact_key, is_internal=True).unique_key == unique_key


@pytest.mark.parametrize(
    "fields", [None, ..., {}, [None, "x", {"name": "scayle_customer_id"}, {"name": ["x"]}]]
)
def test_unique_key_may_not_be_shown(fields: Any) -> None:
    assert contact("48213", ContactKey.CUSTOMER_ID, custom_fields=fields).unique_key is None


def test_unique_key_may_be_a_number() -> None:
    fields = [{"name": "scayle_customer_id", "value": 48213}]

    assert contact("48213", ContactKey.CUSTOMER_ID, custom_fields=fields).unique_key == "48213"


@pytest.mark.parametrize("loyalty", [None, ..., []])
def test_contact_may_have_no_card(loyalty: Any) -> None:
    assert contact(loyalty=loyalty).cards == ()


@pytest.mark.parametrize(
    "loyalty",
    [
        {},
        "none",
        False,
        [None],
        [{}],
        [{"card_code": CARD}],
        [{"id_program": "1"}],
        [{"card_code": "", "id_program": "1"}],
        [{"card_code": CARD, "id_program": "1"}, {"card_code": None, "id_program": "2"}],
    ],
)
def test_card_that_cannot_be_read_is_not_taken_for_none(loyalty: Any) -> None:
    """A contact without a card would be given one."""
    with pytest.raises(UnreadableReplyError):
        contact(loyalty=loyalty)


def test_other_contact_is_not_believed() -> None:
    with pytest.raises(UnreadableReplyError):
        contact("other@example.com")
    with pytest.raises(UnreadableReplyError):
        contact("48214", ContactKey.CUSTOMER_ID)
    with pytest.raises(UnreadableReplyError):
        contact("2205883", is_internal=True, id=7)


@pytest.mark.parametrize("is_internal", [True, False])
@pytest.mark.parametrize("shown", [None, ..., "", True, {}])
def test_answer_without_an_id_is_no_contact(shown: Any, is_internal: bool) -> None:
    """An empty object is not a contact without cards."""
    with pytest.raises(UnreadableReplyError):
        contact(is_internal=is_internal, id=shown)


def test_program_is_read() -> None:
    assert program() == LoyaltyProgram(
        is_running=True, subscribes_automatically=True, points_to_amount="10"
    )
    assert program(id="1", status="draft", automatic_subscription=False) == LoyaltyProgram(
        is_running=False, subscribes_automatically=False, points_to_amount="10"
    )


@pytest.mark.parametrize("changes", [{"status": ..., "automatic_subscription": ...}, {"status": 1}])
def test_program_runs_and_subscribes_only_when_it_says_so(changes: dict[str, Any]) -> None:
    found = program(**({"automatic_subscription": "false"} | changes))

    assert (found.is_running, found.subscribes_automatically) == (False, False)


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        ("1.75", "1.75"),
        ("0.1", "0.1"),
        ("0.12345678901234567890", "0.12345678901234567890"),
        ("1e2", "100"),
        ('"0.05"', "0.05"),
    ],
)
def test_worth_of_a_point_is_exact(ratio: str, text: str) -> None:
    document = parse_exact(f'{{"id":1,"default_points_to_amount_ratio":{ratio}}}'.encode())

    assert read_program(document, program="1").points_to_amount == text


@pytest.mark.parametrize(
    "ratio", ["0", "-1", "0.0", "null", "true", '"x"', "[]", "NaN", "Infinity", "0." + "1" * 99]
)
def test_worth_of_a_point_that_is_no_number_above_0_is_not_told(ratio: str) -> None:
    document = parse_exact(f'{{"id":1,"default_points_to_amount_ratio":{ratio}}}'.encode())

    assert read_program(document, program="1").points_to_amount is None


@pytest.mark.parametrize("shown", [2, None, ..., [1], True])
def test_other_program_is_not_believed(shown: Any) -> None:
    with pytest.raises(UnreadableReplyError):
        program(id=shown)


def test_paths_hold_what_is_asked_for_as_one_part() -> None:
    assert member_path("a/b?") == "/loyalty/members/a%2Fb%3F"
    assert balance_path("21 7") == "/loyalty/members/21%207/balance"
    assert (
        contact_path("a+b@example.com", is_internal=False) == "/data/contacts/a%2Bb%40example.com"
    )
    assert contact_path("7", is_internal=True) == "/data/contacts/7?key=internal_id"
    assert program_path("1") == "/loyalty/programs/1"


@pytest.mark.parametrize("part", ["", ".", "..", "\ud800"])
def test_what_cannot_be_asked_for_has_no_path(part: str) -> None:
    assert member_path(part) is None
    assert balance_path(part) is None
    assert contact_path(part, is_internal=True) is None
    assert program_path(part) is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(
    read=st.sampled_from([member, contact, program]),
    changes=st.dictionaries(
        st.sampled_from(
            "card_expire_at program_joined_at individual program email custom_fields loyalty status"
            " default_points_to_amount_ratio automatic_subscription".split()
        ),
        values,
    ),
)
def test_no_reply_breaks_the_reading(read: Callable[..., object], changes: dict[str, Any]) -> None:
    with suppress(UnreadableReplyError):
        read(**changes)


@given(values)
def test_no_balance_breaks_the_reading(value: Any) -> None:
    for document in ({"remaining": value}, {"remaining": {"nq_points": {"total": value}}}):
        with suppress(UnreadableReplyError):
            read_balance(exact(document))
