"""What both OpenAPI documents share: problem documents and other parts."""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from service.web.answers import PROBLEM_TYPE

Document = dict[str, Any]

PROBLEM_SCHEMA: Final[Document] = {
    "type": "object",
    "description": "RFC 9457 problem details.",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string", "pattern": "^urn:loyalty-relay:problem:[a-z-]+$"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "parameter": {"type": "string", "description": "The parameter or field at fault."},
    },
    "additionalProperties": False,
}
_RETRY_AFTER: Final = {
    "Retry-After": {
        "description": "Seconds to wait.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}
_ALLOW: Final = {
    "Allow": {
        "description": "The methods that this path takes.",
        "required": True,
        "schema": {"type": "string"},
    }
}
_CHALLENGE: Final = {
    "WWW-Authenticate": {
        "description": "Basic, with the realm.",
        "required": True,
        "schema": {"type": "string", "pattern": "^Basic "},
    }
}

# What any request may be answered, whatever it asks for.
_ANY: Final = {
    400: "The request cannot be understood.",
    405: "The path does not take this method.",
    408: "The request, or its body, took too long.",
    431: "The request line or a header is too long.",
    503: "Too many connections, or what is asked for cannot be had now.",
}
_HEADERS: Final[Mapping[int, Document]] = {
    401: _CHALLENGE,
    405: _ALLOW,
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}


def problems(described: Mapping[int, str]) -> Document:
    """Responses with problem documents: `described` and those of any request."""
    responses: Document = {}
    for status, description in sorted((_ANY | dict(described)).items()):
        response: Document = {
            "description": description,
            "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        if status in _HEADERS:
            response["headers"] = _HEADERS[status]
        responses[str(status)] = response
    return responses


def json_response(description: str, schema: Document) -> Document:
    """A response with a JSON document."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def object_of(required: Mapping[str, Document], **optional: Document) -> Document:
    """A closed object schema."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **optional},
        "additionalProperties": False,
    }


ALIVE: Final[Document] = {
    "get": {
        "operationId": "alive",
        "summary": "Whether the process runs.",
        "security": [],
        "responses": {
            "200": json_response(
                "It does.", object_of({"alive": {"type": "boolean", "const": True}})
            ),
            **problems({}),
        },
    }
}


def encode(document: Document) -> bytes:
    """The document as it is served."""
    return orjson.dumps(document)
