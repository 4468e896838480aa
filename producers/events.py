"""Publishing what SCAYLE delivered: events in envelopes, unreadable bodies as they came."""

from datetime import datetime
from typing import Final

from producers.envelope import SCHEMA_VERSION, EnvelopeWriter, format_ms
from producers.event_ids import EventIds
from service.domain.clock import Clock
from service.domain.ports import LogWriter
from service.domain.records import NewRecord, Topic
from service.telemetry.metrics import Metrics

_VERSION_HEADER: Final = str(SCHEMA_VERSION)
_REASON_LIMIT: Final = 200  # characters; a path of field names is far shorter


class EventPublisher:
    """Puts events on the log. What is returned from here is durable."""

    def __init__(self, log: LogWriter, *, metrics: Metrics, tenant: str, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._event_ids = EventIds(clock)
        self._envelopes = EnvelopeWriter(tenant)
        self._acknowledged = metrics.events_published.labels(outcome="acknowledged")
        self._failed = metrics.events_published.labels(outcome="failed")

    async def publish_event(
        self,
        *,
        event_type: str,
        order_id: str,
        occurred_at: datetime | None,
        source_key: str | None,
        payload: bytes,
        traceparent: str,
    ) -> str:
        """
        Publish an event under its order's id and return its new event id.

        `payload` is the minimised JSON object; it is copied, not encoded again.
        Raises: LogUnavailableError, PermanentError; then the event may or may not be there.
        """
        event_id = self._event_ids.next()
        value = self._envelopes.encode(
            event_id=event_id,
            event_type=event_type,
            occurred_at=occurred_at,
            received_at_ms=self._clock.now_ms(),
            source_key=source_key,
            payload=payload,
        )
        headers = {
            "event_type": event_type,
            "schema_version": _VERSION_HEADER,
            "traceparent": traceparent,
        }
        await self._append(NewRecord(Topic.ORDERS, order_id, value, headers))
        return event_id

    async def publish_unreadable(
        self, body: bytes, *, event_type: str, reason: str, traceparent: str
    ) -> str:
        """
        Publish a body that could not be read, byte for byte, and return its new event id.

        Raises: as `publish_event`.
        """
        event_id = self._event_ids.next()
        headers = {
            "event_type": event_type,
            "event_id": event_id,
            "received_at": format_ms(self._clock.now_ms()),
            "reason": reason[:_REASON_LIMIT],
            "traceparent": traceparent,
        }
        await self._append(NewRecord(Topic.UNREADABLE, None, body, headers))
        return event_id

    async def _append(self, record: NewRecord) -> None:
        is_acknowledged = False
        try:
            await self._log.append(record)
            is_acknowledged = True
        finally:
            (self._acknowledged if is_acknowledged else self._failed).inc()
