"""The checkout's calls: read tolerantly, refused by name, never with a value."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.domain.checkout import Spending
from service.domain.events import Customer
from service.web.call_fields import FieldError, Fields
from service.web.loyalty_fields import (
    CardCall,
    RateCall,
    RegisterCall,
    VerifyCall,
    read_card,
    read_collect,
    read_rate,
    read_register,
    read_spending,
    read_verify,
)

# As documented: contract section B.3.
CAPTURE: dict[str, Any] = {
    "amount": 10000,
    "cardKey": "abc123",
    "type": "your_loyalty_program",
    "currencyCode": "EUR",
    "orderId": 2345234,
    "transactionKey": "68ff99b453c1d302c26b46b68ffc",
}
VERIFY = {"type": "p", "cardKey": "c", "email": "ilse@example.org"}
READERS: dict[str, Callable[[Fields], Any]] = {
    "rate": read_rate,
    "card": read_card,
    "verify": read_verify,
    "register": read_register,
    "collect": read_collect,
    "spending": read_spending,
}


def problem_of(read: Callable[[Fields], Any], document: dict[str, Any]) -> FieldError:
    with pytest.raises(FieldError) as caught:
        read(Fields.of_object(document))
    return caught.value


def spend(**changes: Any) -> Spending:
    return read_spending(Fields.of_object(CAPTURE | changes))


def card_of(**fields: Any) -> str:
    return read_card(Fields.of_object({"type": "p", **fields})).card


def test_documented_calls_are_read() -> None:
    assert read_rate(Fields.of_query("currency=EUR&type=your_loyalty_program")) == RateCall(
        "your_loyalty_program", "EUR"
    )
    assert read_card(Fields.of_query("cardKey=abc123&type=your_loyalty_program")) == CardCall(
        "your_loyalty_program", "abc123"
    )
    assert read_spending(Fields.of_body(orjson.dumps(CAPTURE))) == Spending(
        program="your_loyalty_program",
        transaction_key="68ff99b453c1d302c26b46b68ffc",
        order_key="2345234",
        card="abc123",
        amount=10000,
        points=10000,
        currency="EUR",
    )


def test_inferred_calls_are_read() -> None:
    assert read_verify(Fields.of_object(VERIFY)) == VerifyCall("p", "c", "ilse@example.org")
    assert read_collect(
        Fields.of_object({"type": "p", "number": 217, "points": 120, "orderId": "A-7"})
    ) == Spending("p", "", "A-7", "217", 120, 120, None)


@pytest.mark.parametrize("name", ["cardKey", "cardNumber", "loyaltyNumber", "number"])
@pytest.mark.parametrize(
    "value", ["2171707962088", " 2171707962088 ", 2171707962088, 2.171707962088e12]
)
def test_a_card_goes_by_several_names_as_text_or_number(name: str, value: Any) -> None:
    assert card_of(**{name: value}) == "2171707962088"


@pytest.mark.parametrize(
    "value",
    ["x" * 65, "a\nb", "a\x00b", "…", "../..", "\ud800a", True, 1.5, -5, 2.0**60, [], {}, ["1"],
     10**30],
)  # fmt: skip
def test_what_is_no_card_number_is_refused(value: Any) -> None:
    error = problem_of(read_card, {"type": "p", "cardKey": value})

    assert (error.field, error.status) == ("cardKey", 400)


def test_variants_that_agree_are_one() -> None:
    assert card_of(cardKey="217", cardNumber=217, number=" 217 ", loyaltyNumber=None) == "217"
    assert spend(currency="eur").currency == "EUR"
    assert read_card(Fields.of_query("type=p&type=p&cardKey=1&cardKey=1")).card == "1"


@pytest.mark.parametrize(
    ("read", "query", "field", "message"),
    [
        (read_card, "type=p&cardKey=1&cardNumber=2", "cardNumber", "contradicts cardKey"),
        (read_card, "type=p&cardKey=1&cardKey=2", "cardKey", "is given twice"),
        (read_card, "type=p&type=q&cardKey=1", "type", "is given twice"),
        (read_rate, "type=p&currency=EUR&currencyCode=CHF", "currencyCode", "contradicts currency"),
    ],
)
def test_variants_that_contradict_each_other_are_a_problem(
    read: Callable[[Fields], Any], query: str, field: str, message: str
) -> None:
    with pytest.raises(FieldError) as caught:
        read(Fields.of_query(query))

    assert (caught.value.field, caught.value.status) == (field, 400)
    assert message in caught.value.problem


@pytest.mark.parametrize("value", [12, 12.0, "12", "12.0", " 12.00 ", "012"])
def test_a_whole_amount_is_read_in_every_form(value: Any) -> None:
    assert spend(amount=value).amount == 12


@pytest.mark.parametrize(
    "value",
    [0, -1, 0.5, 12.5, "0", "-1", "12.5", "12.", ".0", "+12", "1e3", "1_000", "twelve", "١٢", True,
     False, 2**63, "9223372036854775808", 9.3e18, 2.0**53, float("nan"), float("inf"), [12], {},
     "9" * 5000],
)  # fmt: skip
def test_any_other_amount_is_422(value: Any) -> None:
    error = problem_of(read_spending, CAPTURE | {"amount": value})

    assert (error.field, error.status) == ("amount", 422)


def test_the_greatest_amount_is_taken() -> None:
    assert spend(amount=2**63 - 1).amount == spend(amount=str(2**63 - 1)).amount == 2**63 - 1


def test_collect_prefers_points_to_an_amount_that_may_be_money() -> None:
    collect = {"type": "p", "cardKey": "c", "orderId": 7}

    assert read_collect(Fields.of_object({**collect, "points": 3, "amount": 5995})).points == 3
    assert read_collect(Fields.of_object({**collect, "points": None, "amount": 4})).points == 4
    assert problem_of(read_collect, {**collect, "points": 0, "amount": 5}).status == 422
    assert str(problem_of(read_collect, collect)) == "points is missing (or amount)"


def test_an_order_id_is_that_of_the_webhook() -> None:
    assert spend(orderId="2345234").order_key == spend(orderId=2345234.0).order_key == "2345234"
    for value in ("a/b", "..", "", "x" * 51, True, 1.5):
        assert problem_of(read_spending, CAPTURE | {"orderId": value}).field == "orderId"


def test_a_transaction_key_is_bounded() -> None:
    assert spend(transactionKey=" k " + "x" * 198).transaction_key == "k " + "x" * 198
    assert spend(transactionKey=5).transaction_key == "5"
    for value in ("x" * 201, "a\tb", False):
        assert problem_of(read_spending, CAPTURE | {"transactionKey": value}).status == 400


def test_currency_is_optional_where_points_are_meant() -> None:
    assert spend(currencyCode=None).currency is None
    assert problem_of(read_spending, CAPTURE | {"currencyCode": "EURO"}).field == "currencyCode"
    assert problem_of(read_rate, {"type": "p", "currency": "€UR"}).field == "currency"
    assert problem_of(read_rate, {"type": "p", "currency": 978}).field == "currency"


@pytest.mark.parametrize(
    ("read", "document", "absent", "message"),
    [
        (read_card, {"type": "p", "cardKey": "1"}, "type", "type is missing"),
        (
            read_card,
            {"type": "p", "cardKey": "1"},
            "cardKey",
            "cardKey is missing (or cardNumber, loyaltyNumber, number)",
        ),
        (
            read_rate,
            {"type": "p", "currency": "EUR"},
            "currency",
            "currency is missing (or currencyCode)",
        ),
        (read_verify, VERIFY, "email", "email is missing"),
        (read_spending, CAPTURE, "amount", "amount is missing"),
        (read_spending, CAPTURE, "orderId", "orderId is missing"),
        (read_spending, CAPTURE, "transactionKey", "transactionKey is missing"),
        (
            read_register,
            {"type": "p", "email": "a@b"},
            "email",
            "id is missing (or referenceKey, email, phone, cellphone)",
        ),
    ],
)
@pytest.mark.parametrize("blank", ["absent", None, "", "  "])
def test_what_is_missing_is_named_with_the_names_that_are_taken(
    read: Callable[[Fields], Any],
    document: dict[str, Any],
    absent: str,
    message: str,
    blank: str | None,
) -> None:
    given_ = {**document, absent: blank}
    if blank == "absent":
        del given_[absent]
    error = problem_of(read, given_)

    assert (str(error), error.status) == (message, 400)


def test_a_single_programme_stands_in_for_a_call_without_type() -> None:
    assert read_card(Fields.of_query("cardKey=1", program="only")).program == "only"
    assert read_card(Fields.of_query("cardKey=1&type=p", program="only")).program == "p"
    body = orjson.dumps({"email": "a@b"})
    assert read_register(Fields.of_body(body, program="only")).program == "only"


def test_a_get_reads_the_query_and_others_the_body_unless_it_is_empty() -> None:
    query, body = "type=p&cardKey=1", b'{"type": "q", "cardKey": "2"}'

    assert read_card(Fields.of_call("GET", query, body)) == CardCall("p", "1")
    assert read_card(Fields.of_call("POST", query, body)) == CardCall("q", "2")
    assert read_card(Fields.of_call("PUT", query, b" \n")) == CardCall("p", "1")


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[]", b"1", b"null", b'"type"', b'{"a": NaN}'])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(FieldError) as caught:
        Fields.of_call("POST", "", body)

    assert (caught.value.field, caught.value.status) == ("body", 400)


@pytest.mark.parametrize("query", ["cardKey=%FF", "&".join(["a=1"] * 60)])
def test_a_query_that_cannot_be_read_is_refused(query: str) -> None:
    with pytest.raises(FieldError) as caught:
        Fields.of_query(query)

    assert (caught.value.field, caught.value.status) == ("query", 400)


CUSTOMER = {
    "id": 501,
    "referenceKey": "C-501",
    "email": " ilse@example.org ",
    "phone": "0049/123",
    "firstName": "Ilse",
    "lastName": "Brandt",
}
ILSE = Customer("501", "C-501", "ilse@example.org", "0049/123", "Ilse", "Brandt", False, False)


@pytest.mark.parametrize(
    "document",
    [
        CUSTOMER,
        {"customer": CUSTOMER},
        {**CUSTOMER, "customer": CUSTOMER},
        {"id": 501, "email": "ilse@example.org", "customer": CUSTOMER},
        {**CUSTOMER, "customer": []},
        {**CUSTOMER, "customer": None, "gender": "f", "customData": {"a": 1}},
        {"customer": {**CUSTOMER, "type": "personal", "id": "501", "status": []}},
        {"customer": {**CUSTOMER, "id": 501.0}},
    ],
)
def test_a_customer_is_read_flat_or_nested(document: dict[str, Any]) -> None:
    found = read_register(Fields.of_object({"type": "p", **document}))

    assert found == RegisterCall("p", ILSE, None)


def test_a_customer_may_be_little() -> None:
    found = read_register(Fields.of_object({"type": "p", "phone": 49123}))

    assert found.customer == Customer(None, None, None, "49123", None, None, False, False)


def test_a_cellphone_goes_before_another_telephone() -> None:
    found = read_register(Fields.of_object({"type": "p", "phone": "1", "cellphone": "2"}))

    assert found.customer.cellphone == "2"


def test_status_and_language_are_read_where_they_can_be() -> None:
    customer = {"email": "a@b", "status": {"isGuestCustomer": True}}
    readable: tuple[dict[str, Any], ...] = (
        {"languageCode": "de"},
        {"language": "de"},
        {"locale": {"languageCode": "de"}},
        {"languageCode": ["de"], "locale": {"languageCode": "de"}},
    )
    for language in readable:
        found = read_register(Fields.of_object({"type": "p", "customer": customer, **language}))
        assert (found.customer.is_guest, found.language) == (True, "de")
    unreadable: tuple[dict[str, Any], ...] = (
        {"languageCode": []},
        {"locale": "de_DE"},
        {"language": "x" * 36},
    )
    for language in unreadable:
        found = read_register(Fields.of_object({"type": "p", "customer": customer, **language}))
        assert found.language is None


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"email": "a@b", "customer": {"email": "b@c"}}, "email"),
        ({"id": 1, "customer": {"id": 2}}, "id"),
        ({"customer": "ilse"}, "customer"),
        ({"customer": [CUSTOMER]}, "customer"),
        ({"email": ["a@b"]}, "email"),
        ({"email": True}, "email"),
        ({"id": "a/b"}, "id"),
        ({"email": "a@b", "status": {"isGuestCustomer": "perhaps"}}, "status"),
    ],
)
def test_a_customer_that_cannot_be_read_is_refused(document: dict[str, Any], field: str) -> None:
    error = problem_of(read_register, {"type": "p", **document})

    assert (error.field, error.status) == (field, 400)


def refusal(read: Callable[[], object]) -> FieldError | None:
    """The FieldError of `read`, None without one; any other exception passes."""
    try:
        read()
    except FieldError as error:
        return error
    return None


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["S3CR3T", "EUR", "12", 12.0]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from([*CUSTOMER, "status", "languageCode"]), inner, max_size=3)
    ),
    max_leaves=5,
)
NAMES = st.sampled_from(
    [*CAPTURE, *CUSTOMER, "cardNumber", "number", "currency", "points", "customer", "locale"]
)


@given(st.sampled_from(sorted(READERS)), st.dictionaries(NAMES, VALUES, max_size=8))
@example("spending", {**CAPTURE, "amount": "S3CR3T"})
@example("card", {"type": "p", "cardKey": 10**6000})
def test_any_object_is_read_or_refused_without_its_values(
    name: str, document: dict[str, Any]
) -> None:
    error = refusal(lambda: READERS[name](Fields.of_object(document)))

    assert error is None or error.status in (400, 422)
    assert "S3CR3T" not in str(error)


@given(
    st.sampled_from(sorted(READERS)),
    st.lists(st.tuples(NAMES, st.text(max_size=8)), max_size=8).map(urlencode) | st.text(),
)
def test_any_query_is_read_or_refused(name: str, query: str) -> None:
    error = refusal(lambda: READERS[name](Fields.of_query(query)))

    assert error is None or error.status in (400, 422)
