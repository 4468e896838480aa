"""Parameters: what is wrong is named."""

from typing import Any

import orjson
import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from service.domain.effects import Kind, State
from service.operations import Selection
from service.web.parameters import MAX_NUMBER, BadParameterError, Query, read_selection

KNOWN = ("state", "kind", "order_id", "limit", "after", "open", "since")


def query(text: str) -> Query:
    return Query(make_mocked_request("GET", f"/api/effects?{text}"), known=KNOWN)


def read_all(text: str) -> list[object]:
    found = query(text)
    return [
        found.states(),
        found.kind(),
        found.limit(),
        found.flag("open"),
        found.text("after"),
        found.time_ms("since"),
    ]


def test_good_parameters_are_read() -> None:
    found = query("state=due&state=held&kind=earn&order_id=a%2Fb&limit=500&after=x&open=true")
    assert found.states() == (State.DUE, State.HELD)
    assert query("state=due,held").states() == (State.DUE, State.HELD)
    assert found.kind() is Kind.EARN
    assert found.text("order_id") == "a/b"
    assert found.limit() == 500
    assert found.flag("open")


def test_absent_parameters_have_defaults() -> None:
    found = query("")
    assert (found.states(), found.kind(), found.limit(), found.flag("open")) == (
        (),
        None,
        50,
        False,
    )
    assert (found.text("after"), found.time_ms("since")) == (None, None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1789970672250", 1_789_970_672_250),
        ("0001-01-01T00:00:00%2B14:00", 0),
        ("2026-09-21T06:04:32.250Z", 1_789_970_672_250),
        ("2026-09-21T08:04:32.250%2B02:00", 1_789_970_672_250),
    ],
)
def test_times_are_milliseconds_or_rfc_3339(text: str, moment: int) -> None:
    assert query(f"since={text}").time_ms("since") == moment


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        ("state=", "state"),
        ("state=done", "state"),
        ("state=due,done", "state"),
        ("kind=returned", "kind"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.5", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=1&limit=2", "limit"),
        ("open=1", "open"),
        ("after=", "after"),
        ("after=" + "x" * 201, "after"),
        ("since=yesterday", "since"),
        ("since=2026-09-21T06:04:32", "since"),
        ("order=5", "order"),
        ("order_id=%FF", "query"),
        ("&".join(["state=due"] * 60), "query"),
    ],
)
def test_bad_parameters_are_named(text: str, parameter: str) -> None:
    with pytest.raises(BadParameterError) as caught:
        read_all(text)
    assert caught.value.parameter == parameter


@pytest.mark.parametrize(
    ("body", "selection"),
    [
        ({"ids": [3, 1, 3]}, Selection(ids=(3, 1))),
        ({"ids": [2.0, 2]}, Selection(ids=(2,))),
        ({"ids": [MAX_NUMBER]}, Selection(ids=(MAX_NUMBER,))),
        ({"reason": "conflict"}, Selection(reason="conflict")),
        ({"since": 5}, Selection(since_ms=5)),
        ({"since": "1970-01-01T00:00:01Z", "until": 9}, Selection(since_ms=1000, until_ms=9)),
        ({"all": True}, Selection(everything=True)),
    ],
)
def test_selections_are_read(body: dict[str, Any], selection: Selection) -> None:
    assert read_selection(orjson.dumps(body)) == selection


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b"{}", "body"),
        (b'{"all": true, "ids": [1]}', "body"),
        (b'{"reason": "x", "since": 1}', "body"),
        (b'{"id": 1}', "body"),
        (b'{"all": false}', "all"),
        (b'{"all": 1}', "all"),
        (b'{"ids": []}', "ids"),
        (b'{"ids": 1}', "ids"),
        (b'{"ids": ["1"]}', "ids"),
        (b'{"ids": [true]}', "ids"),
        (b'{"ids": [0]}', "ids"),
        (b'{"ids": [1.5]}', "ids"),
        (b'{"ids": [9223372036854775808]}', "ids"),
        (b'{"reason": ""}', "reason"),
        (b'{"reason": null}', "reason"),
        (b'{"since": null}', "since"),
        (b'{"since": true}', "since"),
        (b'{"since": -1}', "since"),
        (b'{"since": 1, "until": "soon"}', "until"),
    ],
)
def test_bad_selections_are_named(body: bytes, parameter: str) -> None:
    with pytest.raises(BadParameterError) as caught:
        read_selection(body)
    assert caught.value.parameter == parameter


@given(
    st.binary(max_size=40)
    | st.builds(
        orjson.dumps,
        st.dictionaries(
            st.sampled_from(["ids", "reason", "since", "until", "all"]),
            st.none()
            | st.booleans()
            | st.integers(-5, 5)
            | st.text(max_size=5)
            | st.lists(st.integers(0, 3)),
        ),
    )
)
def test_any_body_is_a_selection_or_named(body: bytes) -> None:
    try:
        selection = read_selection(body)
    except BadParameterError:
        return
    assert not selection.is_empty()
