"""
The answers Splio gives, in the error shapes its documentation shows.

| shape | body |
| --- | --- |
| 1 | `{"status", "errors": [{"error_key", "error", "error_description"}]}` |
| 2 | the same with one problem in the place of the list, its `error_key` null |
| 3 | `{"error_key", "error", "error_description"}` |
| 4 | `{"statusCode", "message", "errors": [text]}` |
| 5 | plain text |
| 6 | `{"message"}` |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

JSON = "application/json"
TEXT = "text/plain"
HTML = "text/html"


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer: status, body bytes and their media type."""

    status: int
    body: bytes = b""
    content_type: str = JSON


class Refused(Exception):
    """Splio refuses the request with `answer`; raised before anything was written."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Problem:
    """One entry of an error list: the field, Splio's slug and its English text."""

    key: str
    slug: str
    text: str


def answer_json(status: int, document: Any) -> Answer:
    """`document` as JSON with this status."""
    return Answer(status, orjson.dumps(document))


def answer_text(status: int, text: str) -> Answer:
    """Shape 5: bare text."""
    return Answer(status, text.encode(), TEXT)


def answer_problems(status: int, problems: Iterable[Problem]) -> Answer:
    """Shape 1: a list of problems in an envelope that repeats the status."""
    errors = [_entry(problem) for problem in problems]
    return answer_json(status, {"status": status, "errors": errors})


def answer_problem(status: int, key: str, slug: str, text: str) -> Answer:
    """Shape 1 with one problem."""
    return answer_problems(status, [Problem(key, slug, text)])


def answer_object_problem(status: int, slug: str, text: str) -> Answer:
    """Shape 2: one problem without a key, in the envelope of shape 1."""
    errors = {"error_key": None, "error": slug, "error_description": text}
    return answer_json(status, {"status": status, "errors": errors})


def answer_flat_problem(status: int, key: str, slug: str, text: str) -> Answer:
    """Shape 3: the problem without an envelope."""
    return answer_json(status, _entry(Problem(key, slug, text)))


def answer_subscription_problem(*texts: str) -> Answer:
    """Shape 4, which only the creation of members uses; always 400."""
    return answer_json(
        400,
        {
            "statusCode": "Bad Request",
            "message": "Subscription request could not be done because of validation error(s)",
            "errors": list(texts),
        },
    )


def _entry(problem: Problem) -> dict[str, str]:
    return {
        "error_key": problem.key,
        "error": problem.slug,
        "error_description": problem.text,
    }


# Splio's text for a request it cannot read, where a page names nothing better.
MALFORMED = (
    "The request was malformed and it is unable to be processed. Please review and try again."
)
INVALID_JSON = answer_problem(
    400, "payload", "invalid_json", "Json payload is invalid, verify its syntax."
)
UNAUTHENTICATED = answer_text(401, "Authentication failed.")
METHOD_NOT_ALLOWED = answer_text(405, "Method Not Allowed.")
NO_ROUTE = answer_problem(404, "path", "not_found", "Nothing answers at this path.")
TOO_LARGE = answer_problem(413, "payload", "wrong_value", "The body is larger than 1 MiB.")
RATE_LIMITED = answer_json(429, {"message": "API rate limit exceeded"})
WRONG_PAYLOAD = answer_problem(400, "payload", "wrong_value", "Wrong payload.")
