"""The AsyncAPI document of the topics: what downstream services may read, and how."""

from functools import cache
from typing import Any, Final

import orjson
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from producers import envelope, notices
from producers.envelope import Envelope, EnvelopeWriter
from producers.notices import NoticeWriter, PublishedDeadLetter, PublishedOutcome
from service.domain.effects import Kind, State, effect_key, idempotency_key
from service.domain.notices import DeadLetterNotice, Notice, OutboxEntry, OutcomeNotice
from service.domain.records import PublicTopic, Topic
from service.scayle.webhook import ORDER_CONFIRMED, Order, read_time
from service.web.openapi.parts import Document, object_of

_DAY_MS: Final = 86_400_000
_BINDING: Final = "0.5.0"  # of AsyncAPI's Kafka bindings
_SCHEMAS: Final = "#/components/schemas/"
_TEXT: Final[Document] = {"type": "string"}
_TRACEPARENT: Final[Document] = {
    "type": "string",
    "description": "W3C trace context of the webhook.",
    "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
}

_DESCRIPTION: Final = """\
The topics of Loyalty Relay. A deployment may put a prefix before every topic's name.

**At least once.** Any record may come again, with other offsets: after a crash, or when an
acknowledgement was lost. Tell repeated outcomes by (`effect_key`, `outcome`), repeated dead
letters by (`tenant`, `id`). An event that SCAYLE delivered twice is there twice, under two
`event_id`.

**Order.** The records of one key, an order's id, are in order within a topic, repeats aside. There
is no order between keys or between topics.

**Compatibility.** Fields may be added at any time: pass over those you do not know.
`schema_version`, in the value and in the header, rises when a reader of the version before would
be misled; a change that no reader could follow is a new topic (`.v2`).

**Retention.** By time, never compacted. Topics with personal data are tagged so and are for
readers that need it; `loyalty.…` topics have none."""

_EVENT_ID: Final = "01998a2f-7c1d-7000-8f3a-0d5b2c9e4a61"
_ORDER_ID: Final = "10000001"
_OCCURRED_AT: Final = "2026-09-21T06:04:31.000Z"
_RECEIVED_AT_MS: Final = 1_789_970_672_250
_EXAMPLE_TRACE: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_EXAMPLE_ORDER: Final[Document] = {
    "id": _ORDER_ID,
    "confirmedAt": "2026-09-21T08:04:30+02:00",
    "currencyCode": "EUR",
    "cost": {"withTax": 4500, "tax": {"vat": {"amount": 718}}},
    "customer": {"id": "77310", "email": "someone@example.org"},
    "items": [
        {
            "id": "990001",
            "price": {"withTax": 4500},
            "product": {"name": "Umbrella"},
            "variant": {"id": "880001", "referenceKey": "UMB-07-NVY"},
        }
    ],
    "loyaltyCard": {"cardNumber": "6010000000017", "points": 135, "provider": "club"},
    "locale": {"appId": "2001", "languageCode": "de_DE"},
}
_EARN: Final = effect_key("main", Kind.EARN, _ORDER_ID)
_EXAMPLE_OUTCOME: Final = OutcomeNotice(
    effect_key=_EARN,
    kind=Kind.EARN,
    order_id=_ORDER_ID,
    outcome=State.APPLIED,
    reason=None,
    points=135,
    attempt=1,
    reference=idempotency_key(_EARN),
    event_id=_EVENT_ID,
    settled_at_ms=_RECEIVED_AT_MS + 120,
)
_EXAMPLE_DEAD_LETTER: Final = DeadLetterNotice(
    id=41,
    kind=Kind.EARN.value,
    reason="unknown_card",
    effect_key=_EARN,
    order_id=_ORDER_ID,
    event_id=_EVENT_ID,
    event_type=ORDER_CONFIRMED,
    topic=Topic.ORDERS.value,
    partition=3,
    offset=20_417,
    at_ms=_RECEIVED_AT_MS + 3 * _DAY_MS,
)


@cache
def asyncapi_document() -> bytes:
    """The document, indented as it is committed in `deploy/asyncapi.json`."""
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Loyalty Relay: topics",
            "version": "1",
            "description": _DESCRIPTION,
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "orders": _channel(
                Topic.ORDERS,
                "Confirmed orders as SCAYLE delivered them, without what is not needed. With "
                "personal data: names, e-mail, phone, card number. Kept for at least 14 days.",
                message="orderConfirmed",
                retention_days=14,
                tags=("personal-data",),
            ),
            "unreadable": _channel(
                Topic.UNREADABLE,
                "Bodies of webhooks that could not be read, byte for byte. Restricted: they may "
                "hold any personal data, and nobody but Loyalty Relay needs them. Kept for 3 days.",
                message="unreadableBody",
                retention_days=3,
                tags=("restricted", "personal-data"),
            ),
            "outcomes": _channel(
                PublicTopic.OUTCOMES,
                "What was settled: effect, outcome, points, Splio's reference. For everybody. "
                "Kept for at least 14 days.",
                message="outcome",
                retention_days=14,
            ),
            "deadLetters": _channel(
                PublicTopic.DEAD_LETTERS,
                "What was set aside and why; an operator decides what becomes of it. For "
                "everybody. Kept for at least 14 days.",
                message="deadLetter",
                retention_days=14,
            ),
        },
        "operations": {
            "sendOrders": _operation("send", "orders", "Answer a webhook once its event is here."),
            "receiveOrders": _operation("receive", "orders", "Plan the effects of an order."),
            "sendUnreadable": _operation("send", "unreadable", "Keep a body that cannot be read."),
            "receiveUnreadable": _operation("receive", "unreadable", "Make a dead letter of it."),
            "sendOutcomes": _operation("send", "outcomes", "Tell what was settled."),
            "sendDeadLetters": _operation("send", "deadLetters", "Tell what was set aside."),
        },
        "components": {"messages": _messages(), "schemas": _schemas()},
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _channel(
    topic: Topic | PublicTopic,
    description: str,
    *,
    message: str,
    retention_days: int,
    tags: tuple[str, ...] = (),
) -> Document:
    return {
        "address": topic.value,
        "description": description,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        **({"tags": [{"name": tag} for tag in tags]} if tags else {}),
        "bindings": {
            "kafka": {
                "topicConfiguration": {
                    "cleanup.policy": ["delete"],
                    "retention.ms": retention_days * _DAY_MS,
                },
                "bindingVersion": _BINDING,
            }
        },
    }


def _operation(action: str, channel: str, summary: str) -> Document:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
    }


def _messages() -> Document:
    return {
        "orderConfirmed": _message(
            "An order was confirmed.",
            {"$ref": f"{_SCHEMAS}OrderConfirmedEnvelope"},
            headers=object_of(
                _head(ORDER_CONFIRMED, envelope.SCHEMA_VERSION), traceparent=_TRACEPARENT
            ),
            key={"type": "string", "description": "The order's id, `payload.id`."},
            example={
                "headers": {
                    "event_type": ORDER_CONFIRMED,
                    "schema_version": str(envelope.SCHEMA_VERSION),
                    "traceparent": _EXAMPLE_TRACE,
                },
                "payload": orjson.loads(_example_envelope()),
            },
        ),
        "unreadableBody": _message(
            "A webhook of a used type that could not be read. Records have no key.",
            {"type": "string", "format": "binary", "description": "The bytes as they came."},
            headers=object_of(
                {
                    "event_type": _TEXT,
                    "event_id": _TEXT,
                    "received_at": {"type": "string", "format": "date-time"},
                    "reason": {
                        "type": "string",
                        "description": "The first field at fault and what is wrong, no values.",
                    },
                },
                traceparent=_TRACEPARENT,
            ),
            content_type="application/octet-stream",
            example={
                "headers": {
                    "event_type": ORDER_CONFIRMED,
                    "event_id": _EVENT_ID,
                    "received_at": envelope.format_ms(_RECEIVED_AT_MS),
                    "reason": "payload.cost missing",
                    "traceparent": _EXAMPLE_TRACE,
                },
                "payload": '{"type": "order-confirmed", "payload": {"id": 10000001}}',
            },
        ),
        "outcome": _message(
            "An effect was settled.",
            {"$ref": f"{_SCHEMAS}{PublishedOutcome.__name__}"},
            headers=object_of(_head(notices.OUTCOME, notices.SCHEMA_VERSION)),
            key={"type": "string", "description": "The order's id, `order_id`."},
            example=_example_notice(_EXAMPLE_OUTCOME),
        ),
        "deadLetter": _message(
            "A record or an effect was set aside.",
            {"$ref": f"{_SCHEMAS}{PublishedDeadLetter.__name__}"},
            headers=object_of(_head(notices.DEAD_LETTER, notices.SCHEMA_VERSION)),
            key={
                "type": ["string", "null"],
                "description": "The order's id, `order_id`; none when it is not known.",
            },
            example=_example_notice(_EXAMPLE_DEAD_LETTER),
        ),
    }


def _message(
    summary: str,
    payload: Document,
    *,
    headers: Document,
    example: Document,
    key: Document | None = None,
    content_type: str = "application/json",
) -> Document:
    kafka = (
        {"bindingVersion": _BINDING} if key is None else {"key": key, "bindingVersion": _BINDING}
    )
    return {
        "summary": summary,
        "contentType": content_type,
        # Headers may be added like fields.
        "headers": {**headers, "additionalProperties": True},
        "payload": payload,
        "bindings": {"kafka": kafka},
        "examples": [example],
    }


def _head(event_type: str, version: int) -> Document:
    return {
        "event_type": {"type": "string", "const": event_type},
        "schema_version": {"type": "string", "const": str(version)},
    }


class _Plain(GenerateJsonSchema):
    """Leaves out the title of a field, which only repeats its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _schemas() -> Document:
    """The schemas of the models by name, and the envelope of each event type."""
    models: tuple[Any, ...] = (Envelope, Order, PublishedOutcome, PublishedDeadLetter)
    _, collected = TypeAdapter.json_schemas(
        [(model.__name__, "serialization", TypeAdapter(model)) for model in models],
        ref_template=f"{_SCHEMAS}{{model}}",
        schema_generator=_Plain,
    )
    schemas: Document = dict(collected["$defs"])
    schemas[Order.__name__]["description"] = (
        "What is kept of SCAYLE's order, under SCAYLE's names. Amounts are in the currency's "
        "smallest unit. A field that is not required may be absent or null."
    )
    schemas["OrderConfirmedEnvelope"] = {
        "allOf": [
            {"$ref": f"{_SCHEMAS}Envelope"},
            {
                "type": "object",
                "properties": {
                    "event_type": {"const": ORDER_CONFIRMED},
                    "payload": {"$ref": f"{_SCHEMAS}Order"},
                },
            },
        ]
    }
    return schemas


def _example_envelope() -> bytes:
    return EnvelopeWriter("main").encode(
        event_id=_EVENT_ID,
        event_type=ORDER_CONFIRMED,
        occurred_at=read_time(_OCCURRED_AT),
        received_at_ms=_RECEIVED_AT_MS,
        source_key="9f1d2c34-order-confirmed-10000001",
        payload=orjson.dumps(_EXAMPLE_ORDER),
    )


def _example_notice(notice: Notice) -> Document:
    record = NoticeWriter("main").record(OutboxEntry(1, notice))
    return {"headers": dict(record.headers), "payload": orjson.loads(record.value)}
