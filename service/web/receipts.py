"""How a door ended one request: its outcome, its answer, and what its log line says."""

import logging
from dataclasses import dataclass, field
from http import HTTPStatus
from math import ceil
from typing import Any

from aiohttp import web

from service.web.answers import problem
from service.web.bodies import (
    BodyBrokenError,
    BodyError,
    BodyTooLargeError,
    BodyTooSlowError,
    DisconnectedError,
    UnsupportedMediaTypeError,
)


@dataclass(slots=True)
class Receipt:
    """`outcome` is that of the door's metric, `fields` are those of its log line."""

    outcome: str
    answer: web.StreamResponse
    level: int = logging.INFO
    fields: dict[str, Any] = field(default_factory=dict)


def unauthorized(refusal: web.Response) -> Receipt:
    """Of a request whose credentials were refused, or not looked at any more."""
    is_throttled = refusal.status == HTTPStatus.TOO_MANY_REQUESTS
    return Receipt("throttled" if is_throttled else "unauthorized", refusal)


def unavailable(reason: str, retry_after_s: float, detail: str = "") -> Receipt:
    """Of a request that is to be sent again later."""
    return Receipt(
        "unavailable",
        problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "unavailable",
            "This cannot be done now",
            f"{reason}: {detail or 'send it again later.'}",
            headers={"Retry-After": str(max(1, ceil(retry_after_s)))},
        ),
        logging.WARNING,
        {"reason": reason},
    )


def without_body(error: BodyError, *, limit_bytes: int) -> Receipt:
    """Of a request whose body cannot be had."""
    match error:
        case UnsupportedMediaTypeError():
            outcome = "unsupported_media_type"
            answer = problem(415, "unsupported-media-type", "Send plain JSON", str(error))
        case BodyTooLargeError():
            outcome = "too_large"
            detail = f"At most {limit_bytes} bytes are taken."
            answer = problem(413, "too-large", "The body is too large", detail, close=True)
        case BodyTooSlowError():
            outcome = "too_slow"
            answer = problem(408, "too-slow", "The body took too long", close=True)
        case DisconnectedError():
            # Nobody reads this answer.
            outcome = "disconnected"
            answer = problem(400, "disconnected", "The body broke off", close=True)
        case BodyBrokenError():
            outcome = "malformed"
            answer = problem(400, "bad-request", "The body's framing is broken", close=True)
        case _:
            outcome = "malformed"
            answer = problem(417, "unknown-expectation", "Only 100-continue is known", close=True)
    return Receipt(outcome, answer)
