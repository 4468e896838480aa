"""What a reply of Splio means for the effect: the answer table of the design, line by line."""

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

import orjson

from service.domain.effects import PrerequisiteKind
from service.domain.errors import (
    InDoubtError,
    LanePausedError,
    PermanentError,
    RelayError,
    RetryableError,
)
from service.domain.ports import (
    Accepted,
    AlreadyExists,
    Answer,
    Missing,
    Operation,
    UnknownCard,
)
from service.splio.errors import SplioError, describe, parse_errors

OK_STATUSES: Final = range(200, 300)
_TOO_MANY_REQUESTS: Final = 429
_UNAUTHORIZED: Final = 401
_REQUEST_TIMEOUT: Final = 408
_NOT_FOUND: Final = 404
_SEE_OTHER: Final = 303  # the answer of a server that has acted: look elsewhere for the result
_ACCEPTED: Final = 202
_SERVER_ERROR: Final = 500

_CREATES: Final = {
    PrerequisiteKind.CONTACT: Operation.CREATE_CONTACT,
    PrerequisiteKind.PRODUCT: Operation.CREATE_PRODUCT,
    PrerequisiteKind.STORE: Operation.CREATE_STORE,
}
# Repeating these changes nothing, so nothing about them is ever in doubt.
_REPEATABLE: Final = frozenset(
    (Operation.AUTHENTICATE, Operation.READ_ORDER, Operation.LIST_POINTS, *_CREATES.values())
)


class _Means(Enum):
    EXISTS = auto()
    NO_CONTACT = auto()
    NO_PRODUCT = auto()
    NO_STORE = auto()
    NO_CARD = auto()
    REFUSED = auto()
    GONE = auto()
    WRONG_API_KEY = auto()


@dataclass(frozen=True, slots=True)
class _Rule:
    """
    A documented refusal; None matches anything, `phrase` is looked for in the description.

    `wrong_value` stands for "not found" and for "already exists": only key and phrase tell.
    """

    means: _Means
    key: str | None = None
    slug: str | None = None
    phrase: str | None = None
    statuses: tuple[int, ...] = (400,)

    def matches(self, status: int, error: SplioError) -> bool:
        return (
            status in self.statuses
            and (self.key is None or self.key == error.key)
            and (self.slug is None or self.slug == error.slug)
            and (self.phrase is None or self.phrase in error.description.lower())
        )


_BAD_REQUEST_OR_NOT_FOUND: Final = (400, 404)
_WRONG_TYPE: Final = _Rule(_Means.REFUSED, slug="wrong_type")
_NO_FIELD: Final = _Rule(_Means.REFUSED, "custom_fields", "wrong_value", "not found")
_MISSING_FIRST: Final = tuple(
    _Rule(means, key, "wrong_value", "not found", _BAD_REQUEST_OR_NOT_FOUND)
    for means, key in (
        (_Means.NO_CONTACT, "individual_id"),
        (_Means.NO_PRODUCT, "product_id"),
        (_Means.NO_STORE, "store_external_id"),
    )
)
_KNOWN_ALREADY: Final = _Rule(_Means.EXISTS, phrase="already exists", statuses=(400, 409))

# Contract sections A.1, B.4, C.4, D.1. What stands nowhere there pauses the lane.
_RULES: Final[dict[Operation, tuple[_Rule, ...]]] = {
    Operation.AUTHENTICATE: (
        _Rule(_Means.WRONG_API_KEY, "username", "authentication.failed"),
        _Rule(_Means.WRONG_API_KEY, "api_key", "is_blank"),
    ),
    Operation.POST_ORDER: (
        _Rule(_Means.EXISTS, "external_id", "wrong_value", "already exists"),
        *_MISSING_FIRST,
        _NO_FIELD,
        _WRONG_TYPE,
        _Rule(_Means.REFUSED, "ordered_at", "wrong_value"),
    ),
    Operation.UPDATE_ORDER: (
        _Rule(_Means.GONE, "ext_id", "wrong_value", "not found", (404,)),
        *_MISSING_FIRST,  # documented for POST; PATCH names the same things
        _NO_FIELD,
        _WRONG_TYPE,
        _Rule(_Means.REFUSED, "ordered_at", "wrong_value"),
    ),
    Operation.CREDIT: (
        _Rule(_Means.NO_CARD, "card_code", statuses=(404,)),
        _WRONG_TYPE,
        _Rule(_Means.REFUSED, "", "", "program not found"),
    ),
    Operation.CREATE_CONTACT: (
        _KNOWN_ALREADY,
        _NO_FIELD,
        _WRONG_TYPE,
        _Rule(_Means.REFUSED, "contact_key", "wrong_contact_key"),
        _Rule(_Means.REFUSED, "email", "wrong_email"),
    ),
    Operation.CREATE_PRODUCT: (_KNOWN_ALREADY, _NO_FIELD, _WRONG_TYPE),
    Operation.CREATE_STORE: (_KNOWN_ALREADY, _NO_FIELD, _WRONG_TYPE),
    Operation.READ_ORDER: (),
    Operation.LIST_POINTS: (),
}
_MISSING: Final = {
    _Means.NO_CONTACT: PrerequisiteKind.CONTACT,
    _Means.NO_PRODUCT: PrerequisiteKind.PRODUCT,
    _Means.NO_STORE: PrerequisiteKind.STORE,
}
# `Individual not found for identifier {48213}`, `Product not found for external id JKT-001-M`
_NAMED: Final = re.compile(
    r"identifier \{(?P<braced>.+)\}|(?:external id|unique key) (?P<bare>.+)", re.IGNORECASE
)


def creation_of(kind: PrerequisiteKind) -> Operation:
    """The operation that creates a contact, product or store."""
    return _CREATES[kind]


def classify(
    operation: Operation,
    status: int,
    errors: tuple[SplioError, ...],
    *,
    retry_after_s: float | None = None,
) -> Answer:
    """
    What a reply other than 2xx means for the effect.

    Returns: AlreadyExists, Missing or UnknownCard where the refusal is one of these.
    Raises:
        RetryableError: 429, 401 after a new token, a cart that is gone.
        PermanentError: another documented refusal.
        LanePausedError: a refusal that nobody documented. A credit's refusal is rejected only
            when it is a documented one.
        InDoubtError: 408, 5xx. For what can be repeated freely it is RetryableError instead.
    """
    detail = f"{status} {describe(errors)}".rstrip()
    if status == _TOO_MANY_REQUESTS:
        raise RetryableError("rate_limited", detail, retry_after_s=retry_after_s, status=status)
    if operation is not Operation.AUTHENTICATE and status == _UNAUTHORIZED:
        raise RetryableError("unauthorized", detail, status=status)
    if status in (_REQUEST_TIMEOUT, _SEE_OTHER) or status >= _SERVER_ERROR:
        raise unanswered(operation, "server_error", detail, status=status)
    meanings = [_meaning(operation, status, error) for error in errors]
    if _Means.EXISTS in meanings:
        return AlreadyExists(status)
    if _Means.WRONG_API_KEY in meanings or operation is Operation.AUTHENTICATE:
        raise LanePausedError("authentication_failed", detail, status=status)
    if not meanings or None in meanings:
        raise LanePausedError("unknown_refusal", detail, status=status)
    if _Means.REFUSED in meanings:
        reason = "missing_not_accepted" if operation in _CREATES.values() else "refused"
        raise PermanentError(reason, detail, status=status)
    if _Means.GONE in meanings:
        raise RetryableError("missing", detail, status=status)
    if _Means.NO_CARD in meanings:
        return UnknownCard(status)
    return _missing(meanings, errors, status)


def unanswered(
    operation: Operation, reason: str, detail: str, *, status: int | None = None
) -> RelayError:
    """The error for a request that may have taken effect, or may simply be repeated."""
    if operation in _REPEATABLE:
        return RetryableError("no_answer", f"{reason} {detail}", status=status)
    return InDoubtError(reason, detail, status=status)


def shows_absent_order(status: int, errors: tuple[SplioError, ...]) -> bool:
    """
    Whether a reply to reading an order says that there is none.

    A bare 404 does not: a wrong address answers like that.
    """
    return status == _NOT_FOUND and any(
        error.key in ("ext_id", "external_id", "id") and "not found" in error.description.lower()
        for error in errors
    )


def accept_order(operation: Operation, status: int, body: bytes, *, external_id: str) -> Accepted:
    """
    Believe a 2xx to posting or changing an order: it repeats the order's external id.

    Raises: InDoubtError for a page, an error or another order where ours should be.
    """
    document = read_object(operation, status, body)
    if str(document.get("external_id")) != external_id:
        raise unanswered(operation, "unreadable_reply", "another external_id", status=status)
    return Accepted(status)


def accept_credit(status: int, body: bytes) -> Accepted:
    """
    Believe a 2xx to a credit: 202 without a body (an empty JSON object is taken as well).

    Raises: InDoubtError for anything else, since a credit cannot be taken back.
    """
    if status != _ACCEPTED:
        raise InDoubtError("unreadable_reply", "not 202", status=status)
    if body.strip() and read_object(Operation.CREDIT, status, body):
        raise InDoubtError("unreadable_reply", "202 with a body", status=status)
    return Accepted(status)


def read_object(operation: Operation, status: int, body: bytes) -> dict[str, Any]:
    """
    The JSON object of a 2xx that names no error.

    Raises: InDoubtError (RetryableError for what can be repeated) when there is none.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise unanswered(operation, "unreadable_reply", "not JSON", status=status) from None
    if not isinstance(document, dict):
        raise unanswered(operation, "unreadable_reply", "not an object", status=status)
    if "errors" in document or "error" in document or "error_key" in document:
        detail = describe(parse_errors(body))
        raise unanswered(operation, "unreadable_reply", f"an error: {detail}", status=status)
    return document


def _meaning(operation: Operation, status: int, error: SplioError) -> _Means | None:
    for rule in _RULES[operation]:
        if rule.matches(status, error):
            return rule.means
    return None


def _missing(meanings: list[_Means | None], errors: tuple[SplioError, ...], status: int) -> Missing:
    for meaning, error in zip(meanings, errors, strict=True):
        if meaning in _MISSING:
            named = _NAMED.search(error.description)
            name = (named["braced"] or named["bare"]) if named else None
            return Missing(_MISSING[meaning], name, status)
    raise AssertionError(f"no rule of {meanings} is handled")
