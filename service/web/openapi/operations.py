"""The OpenAPI document of the operations listener."""

from typing import Any, Final

from service.domain.effects import Kind, Lane, State
from service.domain.ledger import LookUpVerdict
from service.operations import BRAKED_NAMES
from service.web.assumed_shapes import Basis, Deviation
from service.web.openapi.parts import (
    ALIVE,
    PROBLEM_SCHEMA,
    Document,
    encode,
    json_response,
    object_of,
    problems,
)
from service.web.parameters import MAX_IDS, MAX_LIMIT, MAX_NUMBER, MAX_TEXT

_TEXT: Final[Document] = {"type": "string"}
_TEXT_OR_NULL: Final[Document] = {"type": ["string", "null"]}
_ID: Final[Document] = {"type": "integer", "minimum": 1, "maximum": MAX_NUMBER}
_TIME: Final[Document] = {"type": "integer", "description": "Milliseconds since the epoch, UTC."}
_TIME_OR_NULL: Final[Document] = {**_TIME, "type": ["integer", "null"]}
_NAME: Final[Document] = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
_GIVEN_TIME: Final[Document] = {
    "description": "RFC 3339 with an offset, or milliseconds since the epoch.",
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": MAX_NUMBER},
        {
            "type": "string",
            "format": "date-time",
            "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T",
            "examples": ["2026-11-14T17:22:31Z"],
        },
    ],
}


def _open_object(required: dict[str, Document]) -> Document:
    """An object that may have more members than those named."""
    return {"type": "object", "required": list(required), "properties": required}


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}


def _list_of(schema: Document) -> Document:
    return {"type": "array", "items": schema}


def _page_of(name: str) -> Document:
    return object_of({"items": _list_of(_ref(name)), "next": _TEXT_OR_NULL})


_SHAPES: Final = object_of(
    {
        "items": _list_of(_ref("Shape")),
        "next": {"type": "null"},
        "is_shared": {
            "type": "boolean",
            "description": "Of every process, as the ledger keeps them; else of this one only.",
        },
    }
)

_SCHEMAS: Final[Document] = {
    "Problem": PROBLEM_SCHEMA,
    "Effect": _open_object(
        {
            "effect_key": _TEXT,
            "kind": {"enum": [kind.value for kind in Kind]},
            "lane": {"enum": [lane.value for lane in Lane]},
            "order_key": _TEXT,
            "state": {"enum": [state.value for state in State]},
            "attempt": {"type": "integer", "minimum": 0},
            "reason": _TEXT_OR_NULL,
        }
    ),
    "EffectWithAttempts": {
        "allOf": [_ref("Effect"), _open_object({"attempts": _list_of({"type": "object"})})]
    },
    "DeadLetter": _open_object(
        {
            "id": _ID,
            "reason": _TEXT,
            "kind": _TEXT,
            "order_id": _TEXT_OR_NULL,
            "at": _TIME,
            "replayed_at": _TIME_OR_NULL,
            "dismissed_at": _TIME_OR_NULL,
        }
    ),
    "Order": _open_object(
        {
            "order_id": _TEXT,
            "effects": _list_of(_ref("EffectWithAttempts")),
            "dead_letters": _list_of(_ref("DeadLetter")),
        }
    ),
    "Hold": _open_object(
        {
            "effect_key": _TEXT,
            "order_id": _TEXT,
            "card": {**_TEXT, "description": "Its last four characters, after an ellipsis."},
            "points": {"type": "integer", "minimum": 1},
            "given_back": {"type": "integer", "minimum": 0},
            "shown": {"type": "integer", "minimum": 0},
            "held": {"type": "integer", "minimum": 0},
            "received_at": _TIME,
            "ended_at": _TIME_OR_NULL,
        }
    ),
    "Lane": _open_object({"lane": {"enum": list(BRAKED_NAMES)}}),
    "Selection": {
        "description": "Which dead letters are meant. All but ids mean those still open.",
        "oneOf": [
            object_of({"ids": {**_list_of(_ID), "minItems": 1, "maxItems": MAX_IDS}}),
            object_of({"reason": _NAME}),
            {**object_of({}, since=_GIVEN_TIME, until=_GIVEN_TIME), "minProperties": 1},
            object_of({"all": {"const": True}}),
        ],
    },
    "Changes": object_of(
        {
            "done": {"type": "integer", "minimum": 0},
            "items": _list_of(
                object_of({"id": _ID, "problem": {**_TEXT, "description": "Empty: it was done."}})
            ),
        }
    ),
    "Shape": object_of(
        {
            "source": {**_TEXT, "examples": ["webhook:order-confirmed", "loyalty:capture"]},
            "count": {"type": "integer", "minimum": 0},
            "last_at": _TIME,
            "taken_at": _TIME,
            "is_cut": {"type": "boolean", "description": "There was more than is looked at."},
            "fields": {
                "type": "object",
                "description": "Types by path: `items[].id`, `?type` of the query, `*` any key.",
                "additionalProperties": _TEXT,
            },
            "call": {
                "description": "What the headers of a call say of its form.",
                "anyOf": [
                    {"type": "null"},
                    object_of(
                        {
                            "method": _TEXT,
                            "credentials": _list_of(_TEXT),
                            "content_type": _TEXT_OR_NULL,
                            "headers": _list_of(_TEXT),
                        }
                    ),
                ],
            },
            "differences": {
                "description": "From what we assume; null where we assume nothing.",
                "anyOf": [{"type": "null"}, _list_of(_ref("Difference"))],
            },
        }
    ),
    "Difference": object_of(
        {
            "path": _TEXT,
            "difference": {"enum": [deviation.value for deviation in Deviation]},
            "seen": _TEXT_OR_NULL,
            "assumed": _TEXT_OR_NULL,
            "basis": {"enum": [*(basis.value for basis in Basis), None]},
        }
    ),
    "Readiness": object_of(
        {
            "ready": {"type": "boolean"},
            "reasons": _list_of(_TEXT),
            "degraded": {
                **_list_of(_TEXT),
                "description": "What is away while the process works on, such as `spooling`.",
            },
        }
    ),
}

_MAY_CHANGE: Final = {
    401: "The credentials are missing or wrong.",
    403: "No RELAY_OPERATIONS_PASSWORD is set, or the request comes from another site's page.",
    429: "Too many failed logins from this address.",
}
_MAY_FAIL: Final = {503: "The ledger does not answer, or there are too many connections."}
_HAS_BODY: Final = {
    413: "The body is too large.",
    415: "The body is encoded, or a form.",
    417: "An expectation other than 100-continue.",
}


def operations_document() -> bytes:
    """The document of health, readiness, metrics, topics and `/api/…`."""
    return encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Loyalty Relay: operations door",
                "version": "1",
                "description": (
                    "What an operator sees and changes. Changes need HTTP Basic as user operator."
                ),
            },
            "paths": {
                "/healthz": ALIVE,
                "/readyz": {"get": _ready()},
                "/metrics": {"get": _metrics()},
                "/asyncapi.json": {"get": _topics()},
                **_effect_paths(),
                **_dead_letter_paths(),
                **_hold_paths(),
                **_lane_paths(),
                "/api/shapes": {
                    "get": _read(
                        "listShapes",
                        "What SCAYLE's requests look like, without values, by source.",
                        _SHAPES,
                        [],
                    )
                },
            },
            "components": {
                "schemas": _SCHEMAS,
                "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
            },
        }
    )


def _in_query(name: str, schema: Document, description: str, **more: Any) -> Document:
    return {"name": name, "in": "query", "schema": schema, "description": description, **more}


def _in_path(name: str, schema: Document) -> Document:
    return {"name": name, "in": "path", "required": True, "schema": schema}


_LIMIT: Final = _in_query(
    "limit",
    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 50},
    "How many items at most.",
)


def _operation(
    operation_id: str,
    summary: str,
    schema: Document,
    *,
    parameters: list[Document],
    failures: dict[int, str],
    security: list[Document],
) -> Document:
    return {
        "operationId": operation_id,
        "summary": summary,
        "security": security,
        "parameters": parameters,
        "responses": {
            "200": json_response("What was asked for, or became of it.", schema),
            **problems(_MAY_FAIL | failures),
        },
    }


def _read(
    operation_id: str,
    summary: str,
    schema: Document,
    parameters: list[Document],
    failures: dict[int, str] | None = None,
) -> Document:
    return _operation(
        operation_id,
        summary,
        schema,
        parameters=parameters,
        failures=failures or {},
        security=[],
    )


def _change(
    operation_id: str,
    summary: str,
    schema: Document,
    parameters: list[Document],
    failures: dict[int, str],
) -> Document:
    return _operation(
        operation_id,
        summary,
        schema,
        parameters=parameters,
        failures=_MAY_CHANGE | failures,
        security=[{"basic": []}],
    )


def _ready() -> Document:
    responses = problems({})
    refused = responses["503"]
    refused["description"] = "It cannot, for these reasons; or there are too many connections."
    refused["content"]["application/json"] = {"schema": _ref("Readiness")}
    return {
        "operationId": "ready",
        "summary": "Whether the process can take and process events.",
        "security": [],
        "responses": {"200": json_response("It can.", _ref("Readiness")), **responses},
    }


def _metrics() -> Document:
    text = {"text/plain": {"schema": _TEXT}}
    return {
        "operationId": "metrics",
        "summary": "Prometheus metrics.",
        "security": [],
        "responses": {"200": {"description": "The text format.", "content": text}, **problems({})},
    }


def _topics() -> Document:
    described = object_of({"asyncapi": {"const": "3.0.0"}})
    return {
        "operationId": "describeTopics",
        "summary": "The AsyncAPI document of the topics.",
        "security": [],
        "responses": {
            "200": json_response("It.", {**described, "additionalProperties": True}),
            **problems({}),
        },
    }


def _effect_paths() -> Document:
    key = [_in_path("key", _NAME)]
    missing = {404: "There is no such effect."}
    conflict = {**missing, 409: "The effect's state does not allow this."}
    effect = _ref("EffectWithAttempts")
    listed = [
        _in_query(
            "state",
            _list_of({"enum": [state.value for state in State]}),
            "Several by repetition or by commas.",
            explode=True,
        ),
        _in_query("kind", {"enum": [kind.value for kind in Kind]}, "Kind of effect."),
        _in_query("order_id", _NAME, "Effects of this order."),
        _LIMIT,
        _in_query("after", _NAME, "`next` of the page before."),
    ]
    looked_up = object_of(
        {"verdict": {"enum": [verdict.value for verdict in LookUpVerdict]}, "effect": effect}
    )
    return {
        "/api/effects": {
            "get": _read("listEffects", "Effects by key.", _page_of("Effect"), listed)
        },
        "/api/effects/{key}": {
            "get": _read("showEffect", "One effect with its attempts.", effect, key, missing)
        },
        "/api/effects/{key}/look-up": {
            "post": _change(
                "lookUpEffect",
                "Ask Splio now what became of an effect in doubt.",
                looked_up,
                key,
                conflict,
            )
        },
        "/api/effects/{key}/release": {
            "post": _change("releaseEffect", "Let a held effect be sent.", effect, key, conflict)
        },
        "/api/effects/{key}/reject": {
            "post": _change(
                "rejectEffect", "Give a held or in-doubt effect up.", effect, key, conflict
            )
        },
        "/api/orders/{order_id}": {
            "get": _read(
                "showOrder",
                "An order's timeline.",
                _ref("Order"),
                [_in_path("order_id", _NAME)],
                {404: "Nothing is known of this order."},
            )
        },
    }


def _dead_letter_paths() -> Document:
    listed = [
        _in_query("reason", _NAME, "Only those with this reason."),
        _in_query("since", _GIVEN_TIME, "Only those made at this time or later."),
        _in_query("until", _GIVEN_TIME, "Only those made before this time."),
        _in_query("open", {"type": "boolean"}, "Only those neither replayed nor dismissed."),
        _LIMIT,
        _in_query(
            "after",
            {"type": "integer", "minimum": 0, "maximum": MAX_NUMBER},
            "`next` of the page before.",
        ),
    ]
    shown = _operation(
        "showDeadLetter",
        "One dead letter; with credentials also the bytes of its record.",
        _ref("DeadLetter"),
        parameters=[_in_path("id", _ID)],
        failures={
            401: "Wrong credentials.",
            404: "There is no such dead letter.",
            429: "Too many failed logins from this address.",
        },
        security=[{}, {"basic": []}],
    )
    return {
        "/api/dead-letters": {
            "get": _read("listDeadLetters", "Dead letters by id.", _page_of("DeadLetter"), listed)
        },
        "/api/dead-letters/{id}": {"get": shown},
        "/api/dead-letters/replay": {
            "post": _selecting("replayDeadLetters", "Plan them again from their records.")
        },
        "/api/dead-letters/dismiss": {
            "post": _selecting("dismissDeadLetters", "Mark them as dealt with elsewhere.")
        },
    }


def _selecting(operation_id: str, summary: str) -> Document:
    operation = _change(operation_id, summary, _ref("Changes"), [], _HAS_BODY)
    operation["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": _ref("Selection")}},
    }
    return operation


def _hold_paths() -> Document:
    key = [_in_path("key", _NAME)]
    missing = {404: "There is no such hold."}
    listed = [
        _in_query("open", {"enum": ["true", "false"]}, "Only those that have not ended."),
        _LIMIT,
        _in_query("after", _NAME, "`next` of the page before."),
    ]
    shown = _operation(
        "showHold",
        "One hold with its debits and refunds; the whole card for the operator alone.",
        _ref("Hold"),
        parameters=key,
        failures={
            401: "Wrong credentials.",
            **missing,
            429: "Too many failed logins from this address.",
        },
        security=[{}, {"basic": []}],
    )
    return {
        "/api/holds": {
            "get": _read("listHolds", "What captures hold, by key.", _page_of("Hold"), listed)
        },
        "/api/holds/{key}": {"get": shown},
        "/api/holds/{key}/end": {
            "post": _change(
                "endHold",
                "The points were taken at Splio by other means: a later refund is credited.",
                _ref("Hold"),
                key,
                {**missing, 409: "It has ended, or its debits are under way."},
            )
        },
    }


def _lane_paths() -> Document:
    lane = {"enum": list(BRAKED_NAMES)}
    return {
        "/api/lanes": {
            "get": _read(
                "listLanes", "Limiter, breaker, pause and brake by lane.", _page_of("Lane"), []
            )
        },
        "/api/lanes/{lane}/release": {
            "post": _change(
                "releaseLane",
                "Let a lane go on that stands still.",
                object_of({"lane": lane, "released": {"const": True}}),
                [_in_path("lane", lane)],
                {404: "There is no such lane.", 409: "Nothing held it."},
            )
        },
    }
