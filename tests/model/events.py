"""The model's events, and the planner that makes effects of them."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

import orjson

from consumers.planner import RecordPlanner
from service.domain.effects import (
    LANE_OF,
    EffectKey,
    Kind,
    RenderedRequest,
    State,
    effect_key,
    idempotency_key,
)
from service.domain.ledger import DeadLetter, PlannedRecord
from service.domain.planning import OrderFacts, Plan, PlannedEffect, PointsFrom, Reason
from service.domain.records import Record, Stream, Topic
from tests.fakes.clock import START_MS
from tests.fakes.remote_splio import PREREQUISITE, body_of

STREAM: Final = Stream(Topic.ORDERS, 0)
_TRACEPARENT: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Part(StrEnum):
    """
    An effect that an event may ask for.

    The followers stand for the kinds that wait for others (refunds, reversals): a chain of three.
    """

    ORDER = "order"
    EARN = "earn"
    FOLLOWER = "follower"  # after the order
    LAST = "last"  # after the follower


class Flaw(StrEnum):
    """What is wrong with an event or one part of it, until it is mended."""

    NONE = "none"
    HELD = "held"  # the part waits for a person
    REJECTED = "rejected"  # the part cannot be asked for
    SET_ASIDE = "set_aside"  # the event is a dead letter
    IGNORED = "ignored"  # the event is of no interest, mended or not


@dataclass(frozen=True, slots=True)
class Event:
    """A delivery: `facts` that differ contradict each other, the flaw is of the part `flawed`."""

    order: str
    facts: str
    parts: tuple[Part, ...]
    flaw: Flaw = Flaw.NONE
    flawed: Part = Part.ORDER

    def to_bytes(self) -> bytes:
        return orjson.dumps([self.order, self.facts, self.parts, self.flaw, self.flawed])


def event_from(value: bytes) -> Event:
    order, facts, parts, flaw, flawed = orjson.loads(value)
    return Event(order, facts, tuple(Part(part) for part in parts), Flaw(flaw), Part(flawed))


def record_of(event: Event, offset: int) -> Record:
    return Record(STREAM, offset, event.order, event.to_bytes(), {"event_type": "model"}, START_MS)


def key_of(order: str, part: Part) -> EffectKey:
    match part:
        case Part.ORDER:
            return effect_key("main", Kind.ORDER, order)
        case Part.EARN:
            return effect_key("main", Kind.EARN, order)
        case Part.FOLLOWER | Part.LAST:
            return effect_key("main", Kind.EARN, order, part.value)


_AFTER: Final = {Part.FOLLOWER: Part.ORDER, Part.LAST: Part.FOLLOWER}


@dataclass
class ModelPlanner(RecordPlanner):
    """Plans the model's events; once they are `mended` a replay finds no flaw any more."""

    is_mended: bool = False
    planned: dict[int, Plan] = field(default_factory=dict)

    def plan(self, record: Record) -> PlannedRecord:
        plan = self._plan_event(event_from(record.value))
        self.planned[record.offset] = plan
        return _planned(record, plan)

    def plan_again(self, dead_letter: DeadLetter) -> PlannedRecord:
        record = Record(
            STREAM,
            dead_letter.offset,
            dead_letter.order_id,
            dead_letter.record,
            dead_letter.headers,
            dead_letter.at_ms,
        )
        return _planned(record, self._plan_event(event_from(record.value)))

    def _plan_event(self, event: Event) -> Plan:
        if event.flaw is Flaw.IGNORED:
            return Plan(event.order, ignored=Reason.TEST_CUSTOMER)
        if event.flaw is Flaw.SET_ASIDE and not self.is_mended:
            return Plan(event.order, dead_letter=Reason.SHOP_MISSING)
        facts = OrderFacts(event.order, "card", 12, PointsFrom.WEBHOOK, "EUR", (("1", 1999),))
        return Plan(event.order, tuple(self._effect(event, part) for part in event.parts), facts)

    def _effect(self, event: Event, part: Part) -> PlannedEffect:
        key = key_of(event.order, part)
        kind = Kind.ORDER if part is Part.ORDER else Kind.EARN
        before = _AFTER.get(part)
        effect = PlannedEffect(
            key=key,
            kind=kind,
            lane=LANE_OF[kind],
            order_key=event.order,
            fingerprint=f"f1:{part}-{event.facts}",
            state=State.DUE,
            request=RenderedRequest(
                path="/",
                body=body_of(key),
                idempotency_key=None if kind is Kind.ORDER else idempotency_key(key),
                prerequisites=(PREREQUISITE,) if kind is Kind.ORDER else (),
            ),
            after=None if before is None else key_of(event.order, before),
            points=0 if kind is Kind.ORDER else 12,
        )
        if part is not event.flawed or self.is_mended:
            return effect
        if event.flaw is Flaw.HELD:
            return replace(effect, state=State.HELD, reason=Reason.POINTS_OVER_LIMIT)
        if event.flaw is Flaw.REJECTED:
            return replace(
                effect, state=State.REJECTED, request=None, reason=Reason.CONTACT_KEY_MISSING
            )
        return effect


def _planned(record: Record, plan: Plan) -> PlannedRecord:
    return PlannedRecord(record, plan, f"event-{record.offset}", "model", START_MS, _TRACEPARENT)
