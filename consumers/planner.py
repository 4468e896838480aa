"""Planning of records: an envelope or an unreadable body in, a planned record out."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from producers.envelope import read_envelope
from service.domain.call_planning import CallPlanner
from service.domain.errors import PoisonMessageError
from service.domain.events import OrderConfirmed
from service.domain.ledger import DeadLetter, PlannedRecord
from service.domain.planning import (
    Plan,
    PlanningPolicy,
    Reason,
    RequestRenderer,
    plan_order_confirmed,
)
from service.domain.records import CallTopic, Record, Stream, Topic
from service.scayle.decode import decode_event, decode_unreadable
from service.telemetry.tracing import new_traceparent

logger = logging.getLogger("relay.intake")


class RecordPlanner:
    """Turns one record into its plan; never raises for what a record holds."""

    def __init__(
        self, policy: PlanningPolicy, renderer: RequestRenderer, calls: CallPlanner | None = None
    ) -> None:
        self._policy = policy
        self._renderer = renderer
        self._calls = calls

    def plan(self, record: Record) -> PlannedRecord:
        """
        The plan of `record`.

        A record that cannot be decoded is set aside as `unreadable`; an exception while planning
        sets it aside as `planning_failed`, so that a fault of ours never stalls a stream.
        """
        if record.stream.topic is Topic.UNREADABLE:
            return _planned(
                record,
                Plan(dead_letter=Reason.UNREADABLE, detail=record.headers.get("reason", "")),
            )
        return self._guarded(record, self._plan_envelope)

    def plan_again(self, dead_letter: DeadLetter) -> PlannedRecord:
        """The plan of a dead letter's record, by the code and settings of today."""
        if dead_letter.topic == CallTopic.CHECKOUT:
            return self._plan_call_again(dead_letter)
        record = Record(
            stream=Stream(Topic(dead_letter.topic), dead_letter.partition),
            offset=dead_letter.offset,
            key=dead_letter.order_id,
            value=dead_letter.record,
            headers=dead_letter.headers,
            appended_at_ms=dead_letter.at_ms,
        )
        if record.stream.topic is Topic.UNREADABLE:
            return self._guarded(record, self._plan_unreadable)
        return self._guarded(record, self._plan_envelope)

    def _plan_call_again(self, dead_letter: DeadLetter) -> PlannedRecord:
        record = Record(
            stream=Stream(CallTopic.CHECKOUT, dead_letter.partition),
            offset=dead_letter.offset,
            key=dead_letter.order_id,
            value=dead_letter.record,
            headers={
                "event_id": dead_letter.event_id,
                "event_type": dead_letter.event_type,
                "received_at": datetime.fromtimestamp(dead_letter.at_ms / 1000, UTC).isoformat(),
            },
            appended_at_ms=dead_letter.at_ms,
        )

        def plan(record: Record) -> PlannedRecord:
            if self._calls is None:
                raise PoisonMessageError("not_replayable", "no call is planned here")
            planned = self._calls.plan_again(
                record.value,
                kind=dead_letter.kind,
                call_id=dead_letter.event_id,
                received_at_ms=dead_letter.at_ms,
            )
            return _planned(record, planned)

        return self._guarded(record, plan)

    def _guarded(self, record: Record, plan: Callable[[Record], PlannedRecord]) -> PlannedRecord:
        try:
            return plan(record)
        except PoisonMessageError as error:
            return _planned(record, Plan(dead_letter=Reason.UNREADABLE, detail=str(error)))
        except Exception as error:
            # The one permitted broad except: a fault of ours must not stall a stream.
            logger.exception(
                "record.planning_failed",
                extra={
                    "topic": record.stream.topic.value,
                    "partition": record.stream.partition,
                    "offset": record.offset,
                    "error_type": type(error).__name__,
                },
            )
            return _planned(
                record, Plan(dead_letter=Reason.PLANNING_FAILED, detail=type(error).__name__)
            )

    def _plan_envelope(self, record: Record) -> PlannedRecord:
        envelope = read_envelope(record.value)
        order = decode_event(
            envelope.event_type,
            envelope.payload,
            occurred_at=envelope.occurred_at,
            received_at=envelope.received_at,
        )
        return PlannedRecord(
            record=record,
            plan=self._plan_order(order),
            event_id=envelope.event_id,
            event_type=envelope.event_type,
            received_at_ms=_ms(envelope.received_at),
            traceparent=record.headers.get("traceparent") or new_traceparent(),
        )

    def _plan_unreadable(self, record: Record) -> PlannedRecord:
        order = decode_unreadable(record.value, received_at=_received_at(record))
        return _planned(record, self._plan_order(order))

    def _plan_order(self, order: OrderConfirmed) -> Plan:
        return plan_order_confirmed(order, self._policy, self._renderer)


def set_aside(record: Record, *, detail: str) -> PlannedRecord:
    """A record whose plan cannot be written, as a dead letter; nothing of its content is used."""
    return PlannedRecord(
        record=replace(record, key=None, headers={}),
        plan=Plan(dead_letter=Reason.PLANNING_FAILED, detail=detail),
        event_id="",
        event_type="",
        received_at_ms=record.appended_at_ms,
        traceparent=new_traceparent(),
    )


def _planned(record: Record, plan: Plan) -> PlannedRecord:
    """A planned record whose identity comes from the record's headers, as there is no envelope."""
    headers = record.headers
    return PlannedRecord(
        record=record,
        plan=plan,
        event_id=headers.get("event_id", ""),
        event_type=headers.get("event_type", ""),
        received_at_ms=_ms(_received_at(record)),
        traceparent=headers.get("traceparent") or new_traceparent(),
    )


def _received_at(record: Record) -> datetime:
    """When the webhook came, by the record's headers; else when the log took it."""
    try:
        moment = datetime.fromisoformat(record.headers.get("received_at", ""))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        return datetime.fromtimestamp(record.appended_at_ms / 1000, UTC)
    return moment


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
