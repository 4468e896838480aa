"""Planning of records: whatever a record holds becomes a plan."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.planner import RecordPlanner
from producers.envelope import EnvelopeWriter
from service.domain.effects import EffectKey, RenderedRequest, State
from service.domain.events import OrderConfirmed
from service.domain.ledger import DeadLetter
from service.domain.planning import Reason, Shop
from service.domain.records import Record, Stream, Topic
from tests.fakes.clock import START_MS
from tests.unit.builders import POLICY, TRACEPARENT, make_record

RECEIVED_MS = START_MS - 5_123
PAYLOAD: dict[str, Any] = {
    "id": 1001,
    "confirmedAt": "2026-11-14T17:22:31+00:00",
    "currencyCode": "EUR",
    "cost": {"withTax": 6485, "tax": {"vat": {"amount": 1081}}},
    "items": [{"id": 11, "price": {"withTax": 5995}, "variant": {"id": 7}}],
    "customer": {"id": 1, "email": "ada@example.com"},
    "loyaltyCard": {"cardNumber": "2990000000017", "points": 177},
}


class Renderer:
    """Renders nothing of interest; `fails` raises as a bug would."""

    fails = False

    def order(self, order: OrderConfirmed, *, contact_id: str, shop: Shop) -> RenderedRequest:
        if self.fails:
            raise KeyError("a bug of ours")
        return RenderedRequest("/orders", b"{}")

    def earned_points(
        self, order: OrderConfirmed, *, key: EffectKey, card: str, points: int, shop: Shop
    ) -> RenderedRequest:
        return RenderedRequest("/credit", b"{}")


@pytest.fixture
def planner() -> RecordPlanner:
    return RecordPlanner(POLICY, Renderer())


def envelope(event_type: str = "order-confirmed", **changes: Any) -> bytes:
    return EnvelopeWriter("main").encode(
        event_id="0192-1",
        event_type=event_type,
        occurred_at=datetime(2026, 11, 14, 17, 22, 31, tzinfo=UTC),
        received_at_ms=RECEIVED_MS,
        source_key="evt-1",
        payload=orjson.dumps(PAYLOAD | changes),
    )


def unreadable(body: bytes, **headers: str) -> Record:
    return make_record(
        value=body,
        stream=Stream(Topic.UNREADABLE, 0),
        key=None,
        headers={"event_type": "order-confirmed", "event_id": "u-1", "reason": "no id"} | headers,
    )


def dead_letter(record: Record) -> DeadLetter:
    return DeadLetter(
        id=1,
        kind="event",
        effect_key=None,
        order_id=record.key,
        event_id="e",
        event_type="order-confirmed",
        reason="unreadable",
        detail="",
        topic=record.stream.topic.value,
        partition=record.stream.partition,
        offset=record.offset,
        headers=record.headers,
        record=record.value,
        at_ms=START_MS,
        times_seen=1,
        replayed_at_ms=None,
        dismissed_at_ms=None,
    )


def test_a_record_is_planned_with_the_identity_of_its_envelope(planner: RecordPlanner) -> None:
    planned = planner.plan(make_record(value=envelope()))

    assert [effect.key for effect in planned.plan.effects] == [
        "main:order:1001",
        "main:earn:1001",
    ]
    assert (planned.event_id, planned.event_type) == ("0192-1", "order-confirmed")
    assert planned.received_at_ms == RECEIVED_MS
    assert planned.traceparent == TRACEPARENT


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (b"", "not_json"),
        (b"\xff\x00", "not_json"),
        (b"[]", "no_envelope"),
        (b"{}", "unknown_schema_version"),
        (envelope().replace(b'"schema_version":1', b'"schema_version":99'), "99"),
        (envelope("order-invoiced"), "order-invoiced"),
        (envelope(id=None), "id"),
        (envelope(cost={}), "withTax"),
    ],
)
def test_what_cannot_be_read_is_set_aside_and_says_why(
    planner: RecordPlanner, value: bytes, detail: str
) -> None:
    planned = planner.plan(make_record(value=value))

    assert planned.plan.dead_letter is Reason.UNREADABLE
    assert detail in planned.plan.detail
    assert planned.received_at_ms == START_MS
    assert planned.traceparent == TRACEPARENT


def test_an_unreadable_body_keeps_what_its_headers_say(planner: RecordPlanner) -> None:
    planned = planner.plan(unreadable(b"{}", received_at="2026-11-14T17:22:31.500Z"))

    assert planned.plan.dead_letter is Reason.UNREADABLE
    assert planned.plan.detail == "no id"
    assert (planned.event_id, planned.event_type) == ("u-1", "order-confirmed")
    assert planned.received_at_ms == 1_794_676_951_500


@pytest.mark.parametrize("received_at", ["", "soon", "2026-11-14", "2026-11-14T17:22:31", "²"])
def test_an_odd_time_of_receipt_gives_way_to_the_logs(
    planner: RecordPlanner, received_at: str
) -> None:
    assert planner.plan(unreadable(b"{}", received_at=received_at)).received_at_ms == START_MS


def test_a_bug_while_planning_sets_the_record_aside(
    planner: RecordPlanner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Renderer, "fails", True)

    planned = planner.plan(make_record(offset=7, value=envelope()))

    assert planned.plan.dead_letter is Reason.PLANNING_FAILED
    assert planned.plan.detail == "KeyError"
    (line,) = caplog.records
    assert line.getMessage() == "record.planning_failed"
    assert vars(line)["offset"] == 7
    assert line.exc_info


def test_a_replay_plans_by_the_settings_of_today() -> None:
    record = make_record(value=envelope(locale={"appId": 1042}))
    strict = RecordPlanner(replace(POLICY, points_limit=1), Renderer())

    planned = strict.plan_again(dead_letter(record))

    assert planned.plan.effects[1].state is State.HELD
    assert planned.record.value == record.value
    assert (planned.record.stream, planned.record.offset) == (record.stream, record.offset)


def test_a_replay_of_an_unreadable_body_reads_the_original(planner: RecordPlanner) -> None:
    body = orjson.dumps({"type": "order-confirmed", "key": "k", "payload": PAYLOAD})

    planned = planner.plan_again(dead_letter(unreadable(body)))
    still = planner.plan_again(dead_letter(unreadable(b"{")))

    assert [effect.order_key for effect in planned.plan.effects] == ["1001", "1001"]
    assert planned.event_id == "u-1"
    assert still.plan.dead_letter is Reason.UNREADABLE


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=6,
)


@given(
    field=st.sampled_from(sorted(PAYLOAD)),
    inner=st.none() | st.sampled_from(["withTax", "id", "email", "points", "cardNumber", "price"]),
    value=JSON,
)
def test_no_payload_fails_planning(field: str, inner: str | None, value: Any) -> None:
    """What the log holds is readable or it is not; neither is a fault of ours."""
    changed: Any = value
    if inner is not None and isinstance(PAYLOAD[field], dict):
        changed = {**PAYLOAD[field], inner: value}
    try:
        record = make_record(value=envelope(**{field: changed}))
    except TypeError:
        return  # beyond 64 bits: not JSON that orjson writes
    planned = RecordPlanner(POLICY, Renderer()).plan(record)

    assert planned.plan.dead_letter is not Reason.PLANNING_FAILED
    assert planned.plan.effects or planned.plan.ignored or planned.plan.dead_letter


@given(st.binary(max_size=200))
def test_no_bytes_fail_planning(value: bytes) -> None:
    planner = RecordPlanner(POLICY, Renderer())

    assert planner.plan(make_record(value=value)).plan.dead_letter is Reason.UNREADABLE
    assert planner.plan(unreadable(value)).plan.dead_letter is Reason.UNREADABLE
