"""The answer table, line by line, with the error bodies that Splio documents."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.effects import PrerequisiteKind
from service.domain.errors import (
    InDoubtError,
    LanePausedError,
    PermanentError,
    RelayError,
    RetryableError,
)
from service.domain.loyalty import Granted, Registered
from service.domain.ports import (
    Accepted,
    AlreadyExists,
    Answer,
    Missing,
    Operation,
    UnknownCard,
)
from service.splio.answers import (
    accept_credit,
    accept_grant,
    accept_member,
    accept_order,
    classify,
    read_object,
    shows_absent,
    shows_unknown_reward,
)
from service.splio.errors import SplioError, parse_errors

ORDER, CREDIT = Operation.POST_ORDER, Operation.CREDIT
CONTACT, PRODUCT = Operation.CREATE_CONTACT, Operation.CREATE_PRODUCT
PATCH, READ, POINTS = Operation.UPDATE_ORDER, Operation.READ_ORDER, Operation.LIST_POINTS
LOG_IN = Operation.AUTHENTICATE
MEMBER, GRANT = Operation.CREATE_MEMBER, Operation.GRANT
READS = (
    Operation.READ_CONTACT,
    Operation.READ_MEMBER,
    Operation.READ_BALANCE,
    Operation.READ_PROGRAM,
    Operation.LIST_POINTS,
    Operation.LIST_GRANTS,
)


def usual(status: int, key: str, slug: str, description: str) -> bytes:
    entry = {"error_key": key, "error": slug, "error_description": description}
    return orjson.dumps({"status": status, "errors": [entry]})


def flat(key: str, slug: str, description: str) -> bytes:
    return orjson.dumps({"error_key": key, "error": slug, "error_description": description})


def texts(*errors: str) -> bytes:
    """Shape 4, of member creation."""
    return orjson.dumps(
        {
            "statusCode": "Bad Request",
            "message": "Subscription request could not be done because of validation error(s)",
            "errors": errors,
        }
    )


def answer(operation: Operation, status: int, body: bytes) -> Answer | RelayError:
    try:
        return classify(operation, status, parse_errors(body), retry_after_s=1.0)
    except RelayError as error:
        return error


CONTACT_MISSING = usual(
    400, "individual_id", "wrong_value", "Individual not found for identifier {48213}"
)
PRODUCT_MISSING = usual(
    400, "product_id", "wrong_value", "Product not found for external id JKT-001-M"
)
STORE_MISSING = usual(
    400, "store_external_id", "wrong_value", "Store not found for external id web-fr"
)
STORE_MISSING_AS_OBJECT = orjson.dumps(
    {
        "status": 404,
        "errors": {
            "error_key": "store_external_id",
            "error": "wrong_value",
            "error_description": "Store not found for external id web-fr",
        },
    }
)
ORDER_EXISTS = usual(
    400, "external_id", "wrong_value", "Order with external_id 2345234 already exists."
)
CONTACT_EXISTS = usual(400, "id", "wrong_value", "contact with unique key 48213 already exists")
CARD_UNKNOWN = usual(404, "card_code", "wrong_value", "Membership not found for given identifier.")


@pytest.mark.parametrize(
    ("operation", "status", "body", "expected"),
    [
        (ORDER, 400, ORDER_EXISTS, AlreadyExists(400)),
        (ORDER, 400, CONTACT_MISSING, Missing(PrerequisiteKind.CONTACT, "48213", 400)),
        (ORDER, 400, PRODUCT_MISSING, Missing(PrerequisiteKind.PRODUCT, "JKT-001-M", 400)),
        (ORDER, 404, PRODUCT_MISSING, Missing(PrerequisiteKind.PRODUCT, "JKT-001-M", 404)),
        (ORDER, 400, STORE_MISSING, Missing(PrerequisiteKind.STORE, "web-fr", 400)),
        (ORDER, 404, STORE_MISSING_AS_OBJECT, Missing(PrerequisiteKind.STORE, "web-fr", 404)),
        (
            ORDER,
            400,
            usual(400, "product_id", "wrong_value", "Product not found"),
            Missing(PrerequisiteKind.PRODUCT, None, 400),
        ),
        (CREDIT, 404, CARD_UNKNOWN, UnknownCard(404)),
        (
            MEMBER,
            400,
            usual(400, "individual_id", "wrong_value", "Individual not found for unique key 7"),
            Missing(PrerequisiteKind.CONTACT, "7", 400),
        ),
        (GRANT, 400, flat("card_code", "not_found", "card_code 21 not found"), UnknownCard(400)),
        (CONTACT, 400, CONTACT_EXISTS, AlreadyExists(400)),
        (
            PRODUCT,
            400,
            usual(400, "external_id", "wrong_value", "Product with external_id A already exists."),
            AlreadyExists(400),
        ),
    ],
)
def test_refusal_with_a_remedy_is_an_answer(
    operation: Operation, status: int, body: bytes, expected: Answer
) -> None:
    assert answer(operation, status, body) == expected


BAD_TYPE = usual(
    400, "products[0].unit_price", "wrong_type", "This value should be of type numeric."
)
NO_FIELD = usual(400, "custom_fields", "wrong_value", "Custom field not found for id 99.")
BAD_JSON = usual(400, "payload", "invalid_json", "Json payload is invalid, verify its syntax.")
WRONG_KEY = usual(400, "username", "authentication.failed", "User authentication failed.")
NO_KEY = usual(400, "api_key", "is_blank", "Api key is missing.")
TOO_MANY = b'{"message": "API rate limit exceeded"}'
STRANGER = usual(400, "colour", "wrong_value", "No such colour.")
HTML = b"<html><body>Not Found</body></html>"


@pytest.mark.parametrize(
    ("operation", "status", "body", "error", "reason"),
    [
        # documented refusals
        (ORDER, 400, BAD_TYPE, PermanentError, "refused"),
        (ORDER, 400, NO_FIELD, PermanentError, "refused"),
        (
            ORDER,
            400,
            usual(400, "ordered_at", "wrong_value", "wrong_value"),
            PermanentError,
            "refused",
        ),
        (PATCH, 400, BAD_TYPE, PermanentError, "refused"),
        (CREDIT, 400, BAD_TYPE, PermanentError, "refused"),
        (CREDIT, 400, flat("", "", "program not found"), PermanentError, "refused"),
        (CONTACT, 400, NO_FIELD, PermanentError, "missing_not_accepted"),
        (
            CONTACT,
            400,
            usual(
                400,
                "contact_key",
                "wrong_contact_key",
                "Bad key formating against universe key, c0 is empty",
            ),
            PermanentError,
            "missing_not_accepted",
        ),
        (
            CONTACT,
            400,
            usual(400, "email", "wrong_email", "bad"),
            PermanentError,
            "missing_not_accepted",
        ),
        (
            MEMBER,
            400,
            usual(400, "program_id", "wrong_type", "should be of type int."),
            PermanentError,
            "refused",
        ),
        (
            MEMBER,
            400,
            usual(400, "program_id", "wrong_status", "Program must be in running state."),
            PermanentError,
            "refused",
        ),
        (
            MEMBER,
            400,
            texts("loyalty program could not be found at the given date"),
            PermanentError,
            "refused",
        ),
        (
            MEMBER,
            400,
            texts("status must have a card code if the program doesn't have the option"),
            PermanentError,
            "refused",
        ),
        (MEMBER, 409, b"Failed to generate a card code.", PermanentError, "refused"),
        (
            MEMBER,
            409,
            usual(409, "", "", "Failed to generate a card code."),
            PermanentError,
            "refused",
        ),
        (
            GRANT,
            400,
            flat("", "wrong_field_type", "something went wrong"),
            PermanentError,
            "refused",
        ),
        (
            GRANT,
            400,
            usual(400, "grant_date", "wrong_value", "wrong_value"),
            PermanentError,
            "refused",
        ),
        (
            GRANT,
            400,
            usual(400, "burned_date", "wrong_value", "wrong_value"),
            PermanentError,
            "refused",
        ),
        (
            GRANT,
            400,
            flat("burned_date", "inconsistent_dates", "burn date should be after earned date"),
            PermanentError,
            "refused",
        ),
        (
            GRANT,
            400,
            flat("reward_stock", "not enough stock", "there's not enough stock to"),
            PermanentError,
            "refused",
        ),
        (
            GRANT,
            400,
            flat("reward.force_validity_start", "reward_not_started", "has not started"),
            PermanentError,
            "refused",
        ),
        (
            GRANT,
            400,
            usual(400, "store_id", "invalid_burn_data", "you have to put a burned date"),
            PermanentError,
            "refused",
        ),
        (
            GRANT,
            404,
            usual(404, "reward_id", "wrong_value", "Reward not found for given identifier."),
            PermanentError,
            "refused",
        ),
        (
            GRANT,
            404,
            orjson.dumps(
                {
                    "status": 404,
                    "errors": {
                        "error_key": None,
                        "error": "not_found",
                        "error_description": 'extid "s" not found in splio3_ecommerce'
                        ".universe_stores",
                    },
                }
            ),
            PermanentError,
            "refused",
        ),
        # nothing took effect
        (GRANT, 429, TOO_MANY, RetryableError, "rate_limited"),
        (MEMBER, 401, b"Authentication failed.", RetryableError, "unauthorized"),
        (ORDER, 429, TOO_MANY, RetryableError, "rate_limited"),
        (CREDIT, 429, TOO_MANY, RetryableError, "rate_limited"),
        (LOG_IN, 429, TOO_MANY, RetryableError, "rate_limited"),
        (ORDER, 401, b"Authentication failed.", RetryableError, "unauthorized"),
        (CREDIT, 401, b'"Authentication failed."', RetryableError, "unauthorized"),
        (
            PATCH,
            404,
            usual(404, "ext_id", "wrong_value", "Order not found for given identifier."),
            RetryableError,
            "missing",
        ),
        # what may be repeated freely is never in doubt
        (CONTACT, 503, b"", RetryableError, "no_answer"),
        (READ, 500, b"", RetryableError, "no_answer"),
        (POINTS, 502, HTML, RetryableError, "no_answer"),
        (LOG_IN, 503, b"", RetryableError, "no_answer"),
        *((read, 503, b"", RetryableError, "no_answer") for read in READS),
        # it may have taken effect
        (MEMBER, 500, b"", InDoubtError, "server_error"),
        (MEMBER, 408, b"", InDoubtError, "server_error"),
        (GRANT, 502, HTML, InDoubtError, "server_error"),
        (GRANT, 303, b"", InDoubtError, "server_error"),
        (ORDER, 408, b"", InDoubtError, "server_error"),
        (ORDER, 500, b"", InDoubtError, "server_error"),
        (CREDIT, 502, HTML, InDoubtError, "server_error"),
        (CREDIT, 503, b"", InDoubtError, "server_error"),
        (CREDIT, 303, b"", InDoubtError, "server_error"),
        (PATCH, 504, b"", InDoubtError, "server_error"),
        # nobody documented it
        *((read, 404, HTML, LanePausedError, "unknown_refusal") for read in READS),
        (MEMBER, 409, b"", LanePausedError, "unknown_refusal"),
        (MEMBER, 409, texts("Contact is a member already."), LanePausedError, "unknown_refusal"),
        (MEMBER, 400, texts("tier Gold could not be found"), LanePausedError, "unknown_refusal"),
        (MEMBER, 400, texts(), LanePausedError, "unknown_refusal"),
        (MEMBER, 404, CONTACT_MISSING, LanePausedError, "unknown_refusal"),
        (
            GRANT,
            400,
            flat("nq_points", "not enough points", ""),
            LanePausedError,
            "unknown_refusal",
        ),
        (
            GRANT,
            400,
            usual(400, "idempotency_key", "wrong_value", "key already exists"),
            LanePausedError,
            "unknown_refusal",
        ),
        (GRANT, 404, b"404 page not found", LanePausedError, "unknown_refusal"),
        (GRANT, 404, b'{"message": "Not Found"}', LanePausedError, "unknown_refusal"),
        (GRANT, 404, CARD_UNKNOWN, LanePausedError, "unknown_refusal"),
        (ORDER, 404, HTML, LanePausedError, "unknown_refusal"),
        (ORDER, 404, b"", LanePausedError, "unknown_refusal"),
        (ORDER, 403, b"Forbidden", LanePausedError, "unknown_refusal"),
        (ORDER, 405, b"Method Not Allowed.", LanePausedError, "unknown_refusal"),
        (ORDER, 400, BAD_JSON, LanePausedError, "unknown_refusal"),
        (ORDER, 400, STRANGER, LanePausedError, "unknown_refusal"),
        (ORDER, 301, b"", LanePausedError, "unknown_refusal"),
        (ORDER, 413, b"", LanePausedError, "unknown_refusal"),
        (CREDIT, 400, STRANGER, LanePausedError, "unknown_refusal"),
        (CREDIT, 400, flat("card_code", "not_found", ""), LanePausedError, "unknown_refusal"),
        (CREDIT, 404, HTML, LanePausedError, "unknown_refusal"),
        (CREDIT, 404, flat("", "", "program not found"), LanePausedError, "unknown_refusal"),
        (CREDIT, 409, TOO_MANY, LanePausedError, "unknown_refusal"),
        (CREDIT, 400, ORDER_EXISTS, LanePausedError, "unknown_refusal"),
        (READ, 404, HTML, LanePausedError, "unknown_refusal"),
        (POINTS, 400, b'{"message": "Wrong payload."}', LanePausedError, "unknown_refusal"),
        # a wrong key is nobody's poison message
        (LOG_IN, 400, WRONG_KEY, LanePausedError, "authentication_failed"),
        (LOG_IN, 400, NO_KEY, LanePausedError, "authentication_failed"),
        (LOG_IN, 401, b"Authentication failed.", LanePausedError, "authentication_failed"),
        (LOG_IN, 404, HTML, LanePausedError, "authentication_failed"),
    ],
)
def test_refusal_raises_what_comes_next(
    operation: Operation, status: int, body: bytes, error: type[RelayError], reason: str
) -> None:
    raised = answer(operation, status, body)

    assert type(raised) is error
    assert isinstance(raised, RelayError)
    assert raised.reason == reason
    assert getattr(raised, "status", None) == status


def test_rate_limit_names_the_time_to_wait() -> None:
    with pytest.raises(RetryableError) as raised:
        classify(ORDER, 429, parse_errors(TOO_MANY), retry_after_s=47.0)

    assert raised.value.retry_after_s == 47.0


def several(*bodies: bytes) -> bytes:
    errors = [entry for body in bodies for entry in orjson.loads(body)["errors"]]
    return orjson.dumps({"status": 400, "errors": errors})


def test_several_missing_are_created_one_after_the_other() -> None:
    body = several(PRODUCT_MISSING, CONTACT_MISSING)

    assert answer(ORDER, 400, body) == Missing(PrerequisiteKind.PRODUCT, "JKT-001-M", 400)


def test_refusal_beside_something_missing_is_a_refusal() -> None:
    raised = answer(ORDER, 400, several(PRODUCT_MISSING, BAD_TYPE))

    assert isinstance(raised, PermanentError)


def test_unknown_refusal_beside_a_known_one_pauses() -> None:
    raised = answer(ORDER, 400, several(BAD_TYPE, STRANGER))

    assert isinstance(raised, LanePausedError)


def test_existing_order_is_looked_at_whatever_else_is_wrong() -> None:
    assert answer(ORDER, 400, several(STRANGER, ORDER_EXISTS)) == AlreadyExists(400)


@pytest.mark.parametrize(
    ("description", "name"),
    [
        ("Individual not found for identifier {camille@example.com}", "camille@example.com"),
        ("Individual not found for unique key 48213", "48213"),
        ("Product not found for external id a {b} c", "a {b} c"),
        ("Product not found for external id 1.", "1."),
    ],
)
def test_missing_is_named_as_splio_names_it(description: str, name: str) -> None:
    key = "individual_id" if description.startswith("Individual") else "product_id"
    found = answer(ORDER, 400, usual(400, key, "wrong_value", description))

    assert isinstance(found, Missing)
    assert found.name == name


entries = st.builds(
    SplioError,
    st.sampled_from(["", "card_code", "external_id", "ordered_at", "payload", "x y"])
    | st.text(max_size=8),
    st.sampled_from(["", "wrong_value", "wrong_type", "not_found"]) | st.text(max_size=8),
    st.sampled_from(["already exists", "Not found", "program not found", ""]) | st.text(max_size=8),
)


@given(
    operation=st.sampled_from(Operation),
    status=st.integers(300, 599),
    errors=st.lists(entries, max_size=4).map(tuple),
)
def test_every_refusal_ends_as_an_answer_or_one_of_our_errors(
    operation: Operation, status: int, errors: tuple[SplioError, ...]
) -> None:
    try:
        found = classify(operation, status, errors, retry_after_s=1.0)
    except (RetryableError, PermanentError, LanePausedError, InDoubtError):
        return
    assert isinstance(found, AlreadyExists | Missing | UnknownCard)


@given(status=st.integers(300, 599), errors=st.lists(entries, max_size=4).map(tuple))
def test_credit_is_rejected_for_documented_refusals_only(
    status: int, errors: tuple[SplioError, ...]
) -> None:
    try:
        classify(CREDIT, status, errors, retry_after_s=1.0)
    except PermanentError:
        assert status == 400
        assert errors
        assert all(
            error.slug == "wrong_type"
            or (error.key == error.slug == "" and "program not found" in error.description.lower())
            for error in errors
        )
    except RelayError:
        pass


def test_posted_order_is_believed_when_it_comes_back() -> None:
    body = orjson.dumps({"external_id": "2345234", "total_price": 64.85})

    assert accept_order(ORDER, 201, body, external_id="2345234") == Accepted(201)


def test_posted_order_may_come_back_with_its_id_as_a_number() -> None:
    assert accept_order(ORDER, 201, b'{"external_id":2345234}', external_id="2345234") == Accepted(
        201
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        HTML,
        b"null",
        b"[]",
        b'"ok"',
        b"{}",
        b'{"external_id": "other"}',
        b'{"external_id": "2345234", "errors": []}',
        CONTACT_MISSING,
        TOO_MANY,
        b'{"external_id": "2345234"',
    ],
)
def test_success_without_our_order_in_it_is_in_doubt(body: bytes) -> None:
    with pytest.raises(InDoubtError) as raised:
        accept_order(ORDER, 201, body, external_id="2345234")

    assert raised.value.reason == "unreadable_reply"


@pytest.mark.parametrize("body", [b"", b" \n", b"{}"])
def test_credit_is_believed_when_accepted_without_a_body(body: bytes) -> None:
    assert accept_credit(202, body) == Accepted(202)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (201, b"{}"),
        (204, b""),
        (202, HTML),
        (202, b'"Authentication failed."'),
        (202, b'{"message": "later"}'),
        (202, CARD_UNKNOWN),
        (207, b"{}"),
    ],
)
def test_credit_with_any_other_success_is_in_doubt(status: int, body: bytes) -> None:
    with pytest.raises(InDoubtError):
        accept_credit(status, body)


def test_unreadable_success_of_a_creation_may_be_repeated() -> None:
    with pytest.raises(RetryableError):
        read_object(CONTACT, 201, HTML)


REGISTERED = {"id": 9, "card_code": "2171707962088", "program": {"id": 1, "name": "Club"}}


@pytest.mark.parametrize(
    "changes",
    [{}, {"program": None}, {"program": {"id": "1"}}, {"program": {}}, {"program_join_at": None}],
)
def test_member_is_believed_with_a_card_of_our_program(changes: dict[str, Any]) -> None:
    body = orjson.dumps(REGISTERED | changes)

    assert accept_member(201, body, program=1) == Registered("2171707962088", 201)


def test_card_of_a_member_may_be_a_number() -> None:
    body = orjson.dumps(REGISTERED | {"card_code": 2171707962088})

    assert accept_member(201, body, program=1) == Registered("2171707962088", 201)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, orjson.dumps(REGISTERED)),
        (202, b""),
        (201, b""),
        (201, HTML),
        (201, b"[]"),
        (201, b"{}"),
        (201, texts("loyalty program could not be found")),
        *(
            (201, orjson.dumps(REGISTERED | {"card_code": card}))
            for card in ("", " ", None, True, {"a": 1}, ["21"])
        ),
        (201, orjson.dumps(REGISTERED | {"program": {"id": 2}})),
        (201, orjson.dumps(REGISTERED | {"program": {"id": None}})),
    ],
)
def test_member_of_any_other_success_is_in_doubt(status: int, body: bytes) -> None:
    with pytest.raises(InDoubtError) as raised:
        accept_member(status, body, program=1)

    assert raised.value.reason == "unreadable_reply"


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        (b'[{"uuid":"u","external_ids":["1006","1007"]}]', ("1006", "1007")),
        (b'[{"uuid":"u","external_ids":["1"]},{"uuid":"v","external_ids":["2"]}]', ("1", "2")),
        (b"[]", ()),
    ],
)
def test_grant_is_believed_with_its_codes_or_as_known(body: bytes, codes: tuple[str, ...]) -> None:
    assert accept_grant(200, body) == Granted(200, codes)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (201, b"[]"),
        (202, b""),
        (207, b"[]"),
        (200, b""),
        (200, HTML),
        (200, b"{}"),
        (200, b"null"),
        (200, b'"[]"'),
        (200, flat("card_code", "not_found", "")),
        (200, b'[{"error_key":"card_code","error":"not_found"}]'),
        (200, b'[{"uuid":"u"}]'),
        (200, b'[{"external_ids":["1"]}]'),
        (200, b'[{"uuid":"u","external_ids":[]}]'),
        (200, b'[{"uuid":"u","external_ids":"1"}]'),
        (200, b'[{"uuid":"u","external_ids":{"0":"1"}}]'),
        (200, b'[{"uuid":"u","external_ids":["1",null]}]'),
        (200, b'[{"uuid":"u","external_ids":["1"]},null]'),
        (200, b"[[]]"),
    ],
)
def test_grant_with_any_other_success_is_in_doubt(status: int, body: bytes) -> None:
    with pytest.raises(InDoubtError) as raised:
        accept_grant(status, body)

    assert raised.value.reason == "unreadable_reply"


@pytest.mark.parametrize(
    ("status", "body", "is_absent"),
    [
        (404, usual(404, "id", "wrong_value", "Membership not found for given identifier."), True),
        (404, usual(404, "id", "wrong_value", "Record not found for id 48213."), True),
        (404, usual(404, "ext_id", "wrong_value", "Order not found."), False),
        (404, usual(404, "path", "not_found", "Nothing answers, not found."), False),
        (404, HTML, False),
        (404, b"Not Found", False),
        (404, b'{"message": "Not Found"}', False),
        (400, usual(400, "id", "wrong_value", "Membership not found."), False),
    ],
)
def test_absence_of_a_card_is_believed_only_when_splio_says_so(
    status: int, body: bytes, is_absent: bool
) -> None:
    assert shows_absent(Operation.READ_MEMBER, status, parse_errors(body)) is is_absent


@pytest.mark.parametrize(
    ("status", "body", "is_unknown"),
    [
        (404, flat("", "", "PT10 not found"), True),
        (404, flat("", "", "pt10 not found "), True),
        (400, flat("", "", "PT10 not found"), False),
        (404, flat("", "", "PT1 not found"), False),
        (404, flat("store_id", "", "PT10 not found"), False),
        (404, b"404 page not found", False),
        (404, b'{"message": "Not Found"}', False),
        (404, HTML, False),
    ],
)
def test_unknown_reward_is_believed_only_by_its_name(
    status: int, body: bytes, is_unknown: bool
) -> None:
    assert shows_unknown_reward(status, parse_errors(body), reward="PT10") is is_unknown


@pytest.mark.parametrize(
    ("status", "body", "is_absent"),
    [
        (404, usual(404, "ext_id", "wrong_value", "Order not found for given identifier."), True),
        (404, HTML, False),
        (404, b'{"message": "no Route matched with those values"}', False),
        (400, usual(400, "ext_id", "wrong_value", "Order not found"), False),
    ],
)
def test_absence_is_believed_only_when_splio_says_so(
    status: int, body: bytes, is_absent: bool
) -> None:
    assert shows_absent(READ, status, parse_errors(body)) is is_absent


def test_errors_carry_no_values() -> None:
    """P7: what Splio repeats of a customer stays out of what we log."""
    body = several(
        usual(400, "email", "wrong_value", "Individual not found for identifier {a@example.com}"),
        usual(400, "a@example.com", "2171707962088", "a@example.com already exists"),
        STRANGER,
    )

    raised = answer(ORDER, 400, body)

    assert isinstance(raised, LanePausedError)
    assert raised.detail == (
        "400 email/wrong_value not found; ?/? already exists; colour/wrong_value"
    )
