"""Shapes: paths and types, never a value, within bounds."""

from typing import Any

import orjson
import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from service.web import structure
from service.web.shapes import MAX_SOURCES, CallFacts, SeenShape, ShapeLog
from service.web.structure import MAX_DEPTH, MAX_FIELDS, take_shape
from tests.fakes.clock import START_MS, FakeClock

WEBHOOK = "webhook:order-confirmed"


def fields_of(document: Any) -> dict[str, str]:
    return take_shape(orjson.dumps(document))[0]


def facts(
    *headers: tuple[str, str], method: str = "PUT", path: str = "/capture"
) -> CallFacts | None:
    log = ShapeLog(FakeClock())
    log.note("loyalty:capture", request=make_mocked_request(method, path, CIMultiDict(headers)))
    (shape,) = log.shapes()
    return shape.call


def test_types_are_told_by_path() -> None:
    assert fields_of(
        {
            "id": 7,
            "rate": 0.19,
            "name": "Ilse",
            "isGuest": True,
            "title": None,
            "empty": {},
            "customer": {"email": "ilse@example.org"},
            "groups": ["a", "b"],
            "items": [{"id": 1, "price": 2}, {"id": "2"}, None],
            "nested": [[1.5]],
        }
    ) == {
        "id": "integer",
        "rate": "number",
        "name": "string",
        "isGuest": "boolean",
        "title": "null",
        "empty": "object",
        "customer": "object",
        "customer.email": "string",
        "groups": "array",
        "groups[]": "string",
        "items": "array",
        "items[]": "null|object",
        "items[].id": "integer|string",
        "items[].price": "integer",
        "nested": "array",
        "nested[]": "array",
        "nested[][]": "number",
    }


@pytest.mark.parametrize(
    ("body", "query", "fields"),
    [
        (b"", "", {}),
        (
            b"  ",
            "cardKey=217&type=&217=x",
            {"?cardKey": "string", "?type": "string", "?*": "string"},
        ),
        (b"[1]", "", {"": "array", "[]": "integer"}),
        (b"null", "", {"": "null"}),
        (b"{", "", {"": "unreadable"}),
        (b"\xff", "", {"": "unreadable"}),
        (b"{}", "", {}),
        (b"", "&".join(["a=1"] * 60), {"?": "unreadable"}),
    ],
)
def test_what_is_no_object_has_a_shape_too(body: bytes, query: str, fields: dict[str, str]) -> None:
    assert take_shape(body, query) == (fields, False)


@pytest.mark.parametrize(
    "key", ["", "7", "2171707962088", "a b", "a.b", "ilse@example.org", "é", "a" * 65, "-a", "a[]"]
)
def test_a_key_that_may_be_data_is_not_kept(key: str) -> None:
    assert fields_of({"odd": {key: {"x": 1}, "known_Name-1": 2}}) == {
        "odd": "object",
        "odd.*": "object",
        "odd.*.x": "integer",
        "odd.known_Name-1": "integer",
    }


@pytest.mark.parametrize("member", ["custom", "customData", "legacyCustomData"])
def test_of_what_a_retailer_fills_no_key_is_kept(member: str) -> None:
    assert fields_of({"order": {member: {"MaxMuster": 1, "a": {"Max": [None]}}}}) == {
        "order": "object",
        f"order.{member}": "object",
        f"order.{member}.*": "integer|object",
    }


def test_nothing_is_looked_into_where_anything_may_stand() -> None:
    log = ShapeLog(FakeClock())
    address = {"MaxMuster": {"street": "Ring"}, "id": 1}
    payload = {"address": address, "vouchers": [{"MaxMuster": 1}], "cost": {"tax": {}}}
    log.note(WEBHOOK, body=orjson.dumps({"payload": payload}))
    assert log.shapes()[0].fields == {
        "payload": "object",
        "payload.address": "object",
        "payload.address.*": "integer|object",
        "payload.vouchers": "array",
        "payload.vouchers[]": "object",
        "payload.cost": "object",
        "payload.cost.tax": "object",
    }


def test_a_query_name_without_a_value_may_be_one() -> None:
    assert take_shape(b"", "abc123&type=p&&card%4Bey=1&%=") == (
        {"?*": "string", "?type": "string", "?cardKey": "string"},
        False,
    )


def test_depth_fields_elements_and_values_are_bounded() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"a": deep}
    fields, is_cut = take_shape(orjson.dumps(deep))
    assert (len(fields), is_cut) == (MAX_DEPTH, True)
    fields, is_cut = take_shape(orjson.dumps({f"f{number}": 1 for number in range(10_000)}))
    assert (len(fields), is_cut) == (MAX_FIELDS, True)
    wide = {f"g{group}": {f"f{number}": 1 for number in range(90)} for group in range(10)}
    fields, is_cut = take_shape(orjson.dumps(wide))
    assert (len(fields), is_cut) == (MAX_FIELDS, True)
    fields, is_cut = take_shape(orjson.dumps([{f"f{number}": 1} for number in range(100)]))
    assert (len(fields), is_cut) == (22, True)


def test_looking_ends_however_many_values_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "_MAX_VALUES", 50)
    document: list[Any] = [1] * 20
    for _ in range(3):
        document = [document] * 20
    walk = structure._Walk()
    walk.look("", document, 0)
    assert walk.is_cut
    assert walk._left == 0


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.text().map("S3CR3T ".__add__),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("id"), inner),
    )
)
def test_no_value_and_no_odd_key_is_in_a_shape(document: Any) -> None:
    fields, _ = take_shape(orjson.dumps(document))

    assert "S3CR3T" not in str(fields)
    assert all(path.isascii() for path in fields)


def test_a_source_is_looked_at_once_in_ten_seconds_and_counted_each_time() -> None:
    clock = FakeClock()
    log = ShapeLog(clock)
    log.note(WEBHOOK, body=b'{"a": 1}')
    clock.advance(9)
    log.note(WEBHOOK, body=b'{"b": 1}')
    log.note("webhook:other", body=b'{"c": 1}')
    other, (shape) = reversed(log.shapes())
    assert (shape.fields, shape.count) == ({"a": "integer"}, 2)
    assert (shape.taken_at_ms, shape.last_at_ms) == (START_MS, START_MS + 9000)
    assert other.fields == {"c": "integer"}
    clock.advance(1)
    log.note(WEBHOOK, body=b'{"b": 1}')
    shape = log.shapes()[0]
    assert (shape.fields, shape.count) == ({"b": "integer"}, 3)
    assert (shape.taken_at_ms, shape.last_at_ms) == (START_MS + 10_000, START_MS + 10_000)


def test_bodies_between_are_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bytes] = []

    def take(body: bytes, *_: object, **__: object) -> tuple[dict[str, str], bool]:
        taken.append(body)
        return {}, False

    monkeypatch.setattr("service.web.shapes.take_shape", take)
    log = ShapeLog(FakeClock())
    for _ in range(100):
        log.note(WEBHOOK, body=b"{}")
    assert len(taken) == 1


def test_sources_are_bounded_and_the_longest_quiet_is_forgotten() -> None:
    clock = FakeClock()
    log = ShapeLog(clock)
    log.note(WEBHOOK)
    for number in range(1000):
        clock.advance(1)
        log.note(f"webhook:e{number}")
        if number % 2:
            log.note("loyalty:capture")
    sources = {shape.source for shape in log.shapes()}
    assert len(sources) == MAX_SOURCES
    assert "loyalty:capture" in sources
    assert WEBHOOK not in sources


@pytest.mark.parametrize("source", ["", "7", "webhook:ilse brandt", "webhook:é", "w" * 81, "a\n"])
def test_an_odd_source_is_not_kept_by_name(source: str) -> None:
    log = ShapeLog(FakeClock())
    log.note(source)
    log.note(source + " ")
    (shape,) = log.shapes()
    assert (shape.source, shape.count) == ("other", 2)


@pytest.mark.parametrize(
    ("headers", "credentials"),
    [
        ([], ()),
        ([("Authorization", "Bearer hidden")], ("Authorization: Bearer",)),
        ([("authorization", "bEARER hidden")], ("Authorization: Bearer",)),
        ([("Authorization", "Basic aGlkZGVu")], ("Authorization: Basic",)),
        ([("Authorization", "Token hidden")], ("Authorization: Token",)),
        ([("Authorization", "hidden")], ("Authorization: bare token",)),
        ([("Authorization", "hidden hidden")], ("Authorization: scheme unknown",)),
        ([("X-Access-Token", "hidden")], ("X-Access-Token",)),
        ([("X-API-Key", "hidden"), ("Accept", "hidden")], ("x-api-key",)),
        ([("X-Auth", "hidden")] * 3, ("x-auth",)),
        ([(f"X-Token-{number}", "hidden") for number in range(20)], 5),
        ([("X-Token-" + "a" * 60, "hidden")], ()),
    ],
)
def test_the_form_of_credentials_is_told_and_nothing_of_them(
    headers: list[tuple[str, str]], credentials: tuple[str, ...] | int
) -> None:
    found = facts(*headers)
    assert found is not None
    if isinstance(credentials, int):
        assert len(found.credentials) == credentials
    else:
        assert found.credentials == credentials
    assert "hidden" not in str(found)


@pytest.mark.parametrize(
    ("content_type", "told"),
    [
        (None, None),
        ("application/json", "application/json"),
        ("Application/JSON; charset=hidden", "application/json"),
        ("hidden", "other"),
        ("a/" + "b" * 70, "other"),
    ],
)
def test_method_and_content_type_are_told(content_type: str | None, told: str | None) -> None:
    headers = [] if content_type is None else [("Content-Type", content_type)]
    names = () if content_type is None else ("content-type",)
    assert facts(*headers, method="GET") == CallFacts("GET", (), told, names)
    assert facts(*headers, method="hidden") == CallFacts("other", (), told, names)


def test_the_names_of_headers_are_told() -> None:
    found = facts(
        ("Content-Encoding", "hidden"),
        ("X-Shop", "hidden"),
        ("x-shop", "hidden"),
        ("217", "hidden"),
        *((f"X-{number}", "hidden") for number in range(99)),
    )
    assert found is not None
    assert found.headers[:4] == ("content-encoding", "x-shop", "other", "x-0")
    assert len(found.headers) == 30


def test_a_call_has_its_query_in_its_shape() -> None:
    log = ShapeLog(FakeClock())
    request = make_mocked_request("GET", "/balance?cardKey=217&type=p")
    log.note("loyalty:balance", body=b"", request=request)
    log.note("loyalty:balance:refused", request=request)
    query = {"?cardKey": "string", "?type": "string"}
    assert [shape.fields for shape in log.shapes()] == [query, {**query, "": "not read"}]


def test_shapes_are_json_both_ways() -> None:
    log = ShapeLog(FakeClock())
    log.note(WEBHOOK, body=b'{"a": [1]}')
    log.note(
        "loyalty:capture",
        body=b"{}",
        request=make_mocked_request("PUT", "/", CIMultiDict(Authorization="Bearer x")),
    )
    for shape in log.shapes():
        assert SeenShape.from_json(orjson.loads(orjson.dumps(shape.to_json()))) == shape


@pytest.mark.parametrize(
    "change",
    [
        {"source": "a b"},
        {"source": None},
        {"count": -1},
        {"count": "many"},
        {"fields": {"a": 1}},
        {"fields": {f"f{number}": "string" for number in range(MAX_FIELDS + 1)}},
        {"call": {"method": "PUT"}},
        {"is_cut": None},
    ],
)
def test_what_was_not_written_by_us_is_a_value_error(change: dict[str, Any]) -> None:
    log = ShapeLog(FakeClock())
    log.note(WEBHOOK)
    written = log.shapes()[0].to_json()
    assert SeenShape.from_json(written).source == WEBHOOK
    with pytest.raises(ValueError, match="validation error"):
        SeenShape.from_json(written | change)
