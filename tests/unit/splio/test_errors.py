"""Error replies in every shape, and in none."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.splio.errors import SplioError, describe, parse_errors


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            {
                "status": 400,
                "errors": [
                    {"error_key": "context", "error": "wrong_type", "error_description": "A."},
                    {"error_key": "is_final", "error": "wrong_type", "error_description": "B."},
                ],
            },
            [SplioError("context", "wrong_type", "A."), SplioError("is_final", "wrong_type", "B.")],
            id="1 list of errors",
        ),
        pytest.param(
            {
                "status": 404,
                "errors": {"error_key": None, "error": "", "error_description": "Store not found"},
            },
            [SplioError("", "", "Store not found")],
            id="2 errors is an object",
        ),
        pytest.param(
            {"error_key": "", "error": "", "error_description": "program not found"},
            [SplioError("", "", "program not found")],
            id="3 no envelope",
        ),
        pytest.param(
            {
                "statusCode": "Bad Request",
                "message": "Subscription request could not be done because of ...",
                "errors": ["status must have a card code ..."],
            },
            [SplioError("", "", "status must have a card code ...")],
            id="4 list of text",
        ),
        pytest.param(
            "Authentication failed.", [SplioError("", "", "Authentication failed.")], id="5 text"
        ),
        pytest.param(
            {"message": "API rate limit exceeded"},
            [SplioError("", "", "API rate limit exceeded")],
            id="6 message",
        ),
        pytest.param({}, [], id="empty object"),
        pytest.param({"errors": []}, [], id="no errors"),
        pytest.param(None, [], id="null"),
        pytest.param([1, None, {"error": "x"}], [SplioError("", "x", "")], id="bare list"),
    ],
)
def test_each_shape_is_brought_to_one_form(body: object, expected: list[SplioError]) -> None:
    assert parse_errors(orjson.dumps(body)) == tuple(expected)


def test_bare_text_is_an_error_and_a_page_is_none() -> None:
    assert parse_errors(b"Method Not Allowed.") == (SplioError("", "", "Method Not Allowed."),)
    assert parse_errors(b"  <html>...") == ()
    assert parse_errors(b"") == ()


scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20)
names = st.sampled_from(["errors", "error_key", "error", "error_description", "message", "x"])
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)


@given(st.binary(max_size=200) | documents.map(orjson.dumps))
def test_any_bytes_are_read_without_an_error(body: bytes) -> None:
    for error in parse_errors(body):
        assert all(isinstance(part, str) for part in (error.key, error.slug, error.description))
    describe(parse_errors(body))


def test_deep_nesting_is_no_trap() -> None:
    assert parse_errors(b'{"errors":' + b"[" * 100_000) is not None


def test_huge_lists_and_texts_are_cut() -> None:
    body = orjson.dumps({"errors": [{"error": "x", "error_description": "y" * 5000}] * 500})

    errors = parse_errors(body)

    assert len(errors) == 50
    assert len(errors[0].description) == 1000
    assert describe(errors).endswith("and 47 more")


@given(st.lists(st.builds(SplioError, st.text(), st.text(), st.text()), max_size=5).map(tuple))
def test_description_holds_no_digits_addresses_or_upper_case(
    errors: tuple[SplioError, ...],
) -> None:
    """P7: nothing that could be a card, a telephone number, an e-mail address or a name."""
    shown = describe(errors[:3])

    assert "@" not in shown
    assert not any(letter.isupper() for letter in shown)
    assert not any(word.isdigit() and len(word) > 4 for word in shown.replace("/", " ").split())
