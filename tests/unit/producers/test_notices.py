"""Notices: what downstream services read, in the words of the contract."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given

from producers.notices import (
    SCHEMA_VERSION,
    NoticeWriter,
    PublishedOutcome,
    read_dead_letter,
    read_outcome,
)
from service.domain.effects import SETTLED_STATES, Kind, State
from service.domain.errors import PoisonMessageError
from service.domain.notices import DeadLetterNotice, Notice, OutboxEntry, OutcomeNotice
from service.domain.records import PublicRecord, PublicTopic
from tests.fakes.clock import START_MS
from tests.unit.builders import make_dead_letter_notice, make_outcome
from tests.unit.producers.notices import dead_letters, outcomes

START = datetime.fromtimestamp(START_MS / 1000, UTC)


def record_of(notice: Notice, tenant: str = "main") -> PublicRecord:
    return NoticeWriter(tenant).record(OutboxEntry(1, notice))


def test_outcome_is_published_under_its_order() -> None:
    record = record_of(make_outcome(settled_at_ms=START_MS + 9))

    assert (record.topic, record.key) == (PublicTopic.OUTCOMES, "17")
    assert record.headers == {"event_type": "outcome", "schema_version": "1"}
    assert orjson.loads(record.value) == {
        "schema_version": 1,
        "tenant": "main",
        "effect_key": "main:earn:17",
        "kind": "earn",
        "order_id": "17",
        "outcome": "applied",
        "reason": None,
        "points": 177,
        "attempt": 1,
        "reference": "c1681aed-5d38-5b0f-9810-2567d9e38b64",
        "event_id": "01998a2f-7c1d-7000-8f3a-0d5b2c9e4a61",
        "settled_at": "2027-01-15T08:00:00.009Z",
    }


@pytest.mark.parametrize("order_id", ["17", None])
def test_dead_letter_is_published_under_its_order_when_that_is_known(order_id: str | None) -> None:
    record = record_of(make_dead_letter_notice(order_id))

    assert (record.topic, record.key) == (PublicTopic.DEAD_LETTERS, order_id)
    assert record.headers == {"event_type": "dead-letter", "schema_version": "1"}
    assert orjson.loads(record.value) == {
        "schema_version": 1,
        "tenant": "main",
        "id": 5,
        "kind": "event",
        "reason": "unreadable",
        "effect_key": None,
        "order_id": order_id,
        "event_id": "01998a2f-7c1d-7000-8f3a-0d5b2c9e4a61",
        "event_type": "order-confirmed",
        "topic": "scayle.unreadable.v1",
        "partition": 0,
        "offset": 12,
        "at": "2027-01-15T08:00:00.000Z",
    }


def test_outcome_is_read_back_typed() -> None:
    notice = make_outcome(kind=Kind.ORDER, outcome=State.VOID, reference=None)

    assert read_outcome(record_of(notice, "shop").value) == PublishedOutcome(
        schema_version=SCHEMA_VERSION,
        tenant="shop",
        effect_key="main:earn:17",
        kind="order",
        order_id="17",
        outcome=State.VOID,
        reason=None,
        points=177,
        attempt=1,
        reference=None,
        event_id="01998a2f-7c1d-7000-8f3a-0d5b2c9e4a61",
        settled_at=START,
    )


@given(outcomes)
def test_any_outcome_is_read_back(notice: OutcomeNotice) -> None:
    read = read_outcome(record_of(notice).value)

    assert (read.effect_key, read.kind, read.order_id) == (
        notice.effect_key,
        notice.kind,
        notice.order_id,
    )
    assert (read.outcome, read.reason, read.reference) == (
        notice.outcome,
        notice.reason,
        notice.reference,
    )
    assert (read.points, read.attempt, read.event_id) == (
        notice.points,
        notice.attempt,
        notice.event_id,
    )
    assert round(read.settled_at.timestamp() * 1000) == notice.settled_at_ms


@given(dead_letters)
def test_any_dead_letter_is_read_back(notice: DeadLetterNotice) -> None:
    read = read_dead_letter(record_of(notice).value)

    assert (read.id, read.kind, read.reason) == (notice.id, notice.kind, notice.reason)
    assert (read.effect_key, read.order_id) == (notice.effect_key, notice.order_id)
    assert (read.event_id, read.event_type) == (notice.event_id, notice.event_type)
    assert (read.topic, read.partition, read.offset) == (
        notice.topic,
        notice.partition,
        notice.offset,
    )
    assert round(read.at.timestamp() * 1000) == notice.at_ms


def test_every_settled_state_is_an_outcome() -> None:
    for state in SETTLED_STATES:
        assert read_outcome(record_of(make_outcome(outcome=state)).value).outcome is state


def test_fields_and_kinds_of_a_later_release_are_passed_over() -> None:
    fields = orjson.loads(record_of(make_outcome()).value) | {"kind": "gift", "colour": "red"}

    assert read_outcome(orjson.dumps(fields)).kind == "gift"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema_version": 2}, "unknown_schema_version"),
        ({"schema_version": "1"}, "unknown_schema_version"),
        ({"schema_version": True}, "unknown_schema_version"),
        ({"outcome": "due"}, "no_notice"),
        ({"outcome": "lost"}, "no_notice"),
        ({"points": None}, "no_notice"),
        ({"effect_key": None}, "no_notice"),
        ({"settled_at": "2027-01-15T08:00:00"}, "no_notice"),
        ({"settled_at": "0001-01-01T00:00:00+14:00"}, "no_notice"),
    ],
)
def test_what_does_not_fit_is_poison(changes: dict[str, Any], reason: str) -> None:
    fields = orjson.loads(record_of(make_outcome()).value) | changes

    with pytest.raises(PoisonMessageError) as caught:
        read_outcome(orjson.dumps(fields))

    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [(b"", "not_json"), (b"[]", "no_notice"), (b"{}", "unknown_schema_version")],
)
def test_what_is_no_notice_is_poison(value: bytes, reason: str) -> None:
    for read in (read_outcome, read_dead_letter):
        with pytest.raises(PoisonMessageError) as caught:
            read(value)
        assert caught.value.reason == reason
