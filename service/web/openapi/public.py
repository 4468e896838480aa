"""The OpenAPI document of the public listener."""

from service.web.openapi.loyalty import LOYALTY_SCHEMES
from service.web.openapi.parts import (
    ALIVE,
    PROBLEM_SCHEMA,
    Document,
    encode,
    json_response,
    object_of,
    problems,
)

_ANSWER: Document = object_of(
    {
        "outcome": {
            "enum": ["accepted", "unreadable", "ignored"],
            "description": (
                "accepted: the event is durable. unreadable: its type is used but it could not "
                "be read; it was kept whole. ignored: its type is not used."
            ),
        }
    },
    event_id={"type": "string", "format": "uuid", "description": "A UUIDv7, made at receipt."},
)

_WEBHOOK: Document = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"type": "string", "examples": ["order-confirmed"]},
        "key": {"description": "SCAYLE's key of the message."},
        "occurredAt": {"description": "When it happened, ISO 8601."},
        "locale": {"description": "`appId` and `languageCode` are used."},
        "payload": {"description": "The order; what is not needed is dropped at once."},
    },
    "additionalProperties": True,
}


def public_document(loyalty: Document | None = None) -> bytes:
    """
    The document of `POST /webhooks/scayle` and `GET /healthz`, with the paths of the loyalty
    doors where they are open.
    """
    return encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Loyalty Relay: public door",
                "version": "1",
                "description": (
                    "Takes SCAYLE's webhooks, and the loyalty calls of SCAYLE Checkout where they "
                    "are set up. 200 means that what was sent is durable."
                ),
            },
            "paths": {
                "/webhooks/scayle": {"post": _post_webhook()},
                "/healthz": ALIVE,
                **(loyalty or {}),
            },
            "components": {
                "schemas": {"Problem": PROBLEM_SCHEMA, "Webhook": _WEBHOOK, "Answer": _ANSWER},
                "securitySchemes": {
                    "basic": {"type": "http", "scheme": "basic"},
                    **(LOYALTY_SCHEMES if loyalty else {}),
                },
            },
        }
    )


def _post_webhook() -> Document:
    return {
        "operationId": "deliverWebhook",
        "summary": "Deliver one event.",
        "description": (
            "Only `order-confirmed` is used. The same event may be delivered any number of times."
        ),
        "security": [{"basic": []}],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Webhook"}}},
        },
        "responses": {
            "200": json_response(
                "The event is durable, or is not used.", {"$ref": "#/components/schemas/Answer"}
            ),
            **problems(
                {
                    400: "The body is not a JSON object with a text `type`.",
                    401: "The credentials are missing or wrong.",
                    413: "The body is too large.",
                    415: "The body is encoded, or a form.",
                    417: "An expectation other than 100-continue.",
                    429: "Too many failed logins from this address.",
                    503: "Nothing durable can take the event now.",
                }
            ),
        },
    }
