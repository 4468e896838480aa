"""Publishing: what is returned is durable, and both ends are counted."""

import asyncio
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from producers.envelope import read_envelope
from producers.events import EventPublisher
from service.domain.errors import LogUnavailableError
from service.domain.records import Topic
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import new_traceparent
from tests.fakes.clock import START_MS, FakeClock
from tests.fakes.log_writer import FakeLogWriter
from tests.fakes.waiting import until

TRACE = new_traceparent()


class Bench:
    """A publisher over a fake log."""

    def __init__(self) -> None:
        self.log = FakeLogWriter()
        self.metrics = Metrics(CollectorRegistry())
        self.publisher = EventPublisher(
            self.log, metrics=self.metrics, tenant="main", clock=FakeClock()
        )

    def published(self, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value(
            "relay_events_published_total", {"outcome": outcome}
        )

    async def publish(self) -> str:
        return await self.publisher.publish_event(
            event_type="order-confirmed",
            order_id="17",
            occurred_at=datetime(2026, 9, 21, tzinfo=UTC),
            source_key='a "key"',
            payload=b'{"id":"17"}',
            traceparent=TRACE,
        )


async def test_event_is_published_in_an_envelope_under_its_order() -> None:
    bench = Bench()
    event_id = await bench.publish()
    (record,) = bench.log.records
    assert (record.topic, record.key) == (Topic.ORDERS, "17")
    assert record.headers == {
        "event_type": "order-confirmed",
        "schema_version": "1",
        "traceparent": TRACE,
    }
    envelope = read_envelope(record.value)
    assert envelope.event_id == event_id
    assert envelope.source_key == 'a "key"'
    assert envelope.payload == {"id": "17"}
    assert envelope.received_at.timestamp() * 1000 == START_MS
    assert (bench.published("acknowledged"), bench.published("failed")) == (1, 0)


async def test_unreadable_body_is_kept_byte_for_byte_without_a_key() -> None:
    bench = Bench()
    body = b'{"type": "order-confirmed", "payload": \xc3\x28}'
    event_id = await bench.publisher.publish_unreadable(
        body, event_type="order-confirmed", reason="payload missing", traceparent=TRACE
    )
    (record,) = bench.log.records
    assert (record.topic, record.key, record.value) == (Topic.UNREADABLE, None, body)
    assert record.headers == {
        "event_type": "order-confirmed",
        "event_id": event_id,
        "received_at": "2027-01-15T08:00:00.000Z",
        "reason": "payload missing",
        "traceparent": TRACE,
    }


async def test_nothing_is_returned_before_the_log_acknowledged() -> None:
    """P1."""
    bench = Bench()
    bench.log.gate.clear()
    publishing = asyncio.create_task(bench.publish())
    await until(lambda: bench.log.waiting)
    assert not publishing.done()
    assert bench.published("acknowledged") == 0
    bench.log.gate.set()
    await publishing
    assert bench.published("acknowledged") == 1


async def test_refusal_of_the_log_is_passed_on_and_counted() -> None:
    bench = Bench()
    bench.log.failure = LogUnavailableError("queue_full")
    with pytest.raises(LogUnavailableError):
        await bench.publish()
    assert (bench.published("acknowledged"), bench.published("failed")) == (0, 1)
