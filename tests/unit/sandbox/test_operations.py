"""Whatever a request carries, an operation answers it or refuses it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.sandbox.answers import Answer, Refused
from service.sandbox.books import SCHEMA
from service.sandbox.routes import ROUTES, Route, find_route
from service.sandbox.state import prepare
from service.sandbox.universe import Call, Universe

CARD = "2171707962088"
NAMES = (
    "external_id name email key contact_id card_code store_external_id ordered_at total_price"
    " completed products custom_fields id value product_id quantity unit_price program_id"
    " program_joined_at birthday forced_tier_name event_date nq_points_quantity context is_final"
    " q_points_quantity idempotency_key scope type lists card_expire_at quantity reason_msg"
    " grant_date burned_date validity_start validity_end store_id attribution_ids nqp_value"
    " holding_days limited auto_generated max_attribution_count monetary validity_interval_count"
    " validity_interval_type forced_validity forced_validity_start"
).split()
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.sampled_from(["P", "S", "a@example.com", CARD, "2026-11-14 08:00:00", "c0", "orders"]),
    st.sampled_from(["PT1", "months", "9999-12-31 23:59:59", 1, 2**53]),
)
OBJECTS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8)
BODIES = st.dictionaries(
    st.sampled_from(NAMES), VALUES | OBJECTS | st.lists(VALUES | OBJECTS, max_size=3), max_size=12
)
FILTER = st.sampled_from(
    [
        '{"operator":"equals","value":"x"}',
        '{"operator":"equals","value":true}',
        '{"operator":"lte","value":1e400}',
        '{"operator":"lte","value":1.5}',
        '{"operator":"gt","value":"-9999999999999999999999"}',
        '{"operator":"on date","value":7}',
        '{"operator":"contains","value":"%_\\\\"}',
        '{"operator":["equals"],"value":null}',
        "[]",
        "x",
    ]
)
QUERIES = st.dictionaries(
    st.sampled_from(
        "card_code id_program event_date points_earned limit after before sort order per_page"
        " page_number key fields nqp_value monetary monetary_value name program_name"
        " with_redeemed with_custom_fields".split()
    ),
    FILTER
    | st.sampled_from(["", "0", "1", "-1", "²", "1" * 5000, "ID", "asc", "WyJJRCIsMSwxXQ=="])
    | st.sampled_from(["WyIiLDEsMV0=", "WyIiLDk5OTk5OTk5OTk5OTk5OTk5OTksMV0=", "nqp_value"]),
    max_size=5,
)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.executescript(SCHEMA)
    yield connection
    connection.close()


def universe(unique_key: str = "email") -> Universe:
    return Universe(
        unique_key=unique_key,
        members="ean13",
        hours="padded",
        automatic_subscription=True,
        program_start="2022-01-01 00:00:00",
        points_visible_after_s=0.0,
        repeated_key="suppress",
        holding_days=14,
        rewards={"PT1": 1, "FREE": 0},
    )


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.act], ids=lambda route: route.path
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=BODIES,
    query=QUERIES,
    part=st.text(max_size=8) | st.sampled_from(["a@example.com", "1", CARD, "O", "FREE"]),
)
def test_no_request_breaks_an_operation(
    db: sqlite3.Connection, route: Route, body: Any, query: dict[str, str], part: str
) -> None:
    assert route.act is not None
    rules = universe()
    prepare(db, rules)
    try:
        answer = route.act(Call(db, rules, 1_800_000_000.0, (part,), query, body))
    except Refused as refused:
        answer = refused.answer
    assert isinstance(answer, Answer)
    assert answer.status < 500


def test_segment_with_a_slash_stays_one_part() -> None:
    match = find_route("GET", ("data", "v1", "products", "a/b"))
    assert (match.parts, match.route and match.route.operation) == (("a/b",), "product.read")
    assert not find_route("GET", ("data", "v1", "products", "a", "b")).path_exists
