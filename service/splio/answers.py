"""What a reply of Splio means for the effect: the answer table of the design, line by line."""

import re
from collections.abc import Mapping
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
from service.domain.loyalty import Granted, Registered
from service.domain.ports import (
    Accepted,
    AlreadyExists,
    Answer,
    Missing,
    Operation,
    UnknownCard,
)
from service.splio.errors import SplioError, describe, parse_errors
from service.splio.refusals import Means, meaning

OK_STATUSES: Final = range(200, 300)
_TOO_MANY_REQUESTS: Final = 429
_UNAUTHORIZED: Final = 401
_REQUEST_TIMEOUT: Final = 408
_NOT_FOUND: Final = 404
_SEE_OTHER: Final = 303  # the answer of a server that has acted: look elsewhere for the result
_OK: Final = 200
_CREATED: Final = 201
_ACCEPTED: Final = 202
_SERVER_ERROR: Final = 500

_CREATES: Final = {
    PrerequisiteKind.CONTACT: Operation.CREATE_CONTACT,
    PrerequisiteKind.PRODUCT: Operation.CREATE_PRODUCT,
    PrerequisiteKind.STORE: Operation.CREATE_STORE,
}
# Repeating these changes nothing, so nothing about them is ever in doubt.
_REPEATABLE: Final = frozenset(
    (
        Operation.AUTHENTICATE,
        Operation.READ_ORDER,
        Operation.READ_CONTACT,
        Operation.READ_MEMBER,
        Operation.READ_BALANCE,
        Operation.READ_PROGRAM,
        Operation.LIST_POINTS,
        Operation.LIST_GRANTS,
        *_CREATES.values(),
    )
)

# What an answer says of absence, by the key that it names; `id` where nothing else is named here.
# The points ledger is the universe's: there is no card that it could miss.
_ABSENT_KEYS: Final[Mapping[Operation, tuple[str, ...]]] = {
    Operation.READ_ORDER: ("ext_id", "external_id", "id"),
    Operation.LIST_POINTS: (),
}

_MISSING: Final = {
    Means.NO_CONTACT: PrerequisiteKind.CONTACT,
    Means.NO_PRODUCT: PrerequisiteKind.PRODUCT,
    Means.NO_STORE: PrerequisiteKind.STORE,
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
    meanings = [meaning(operation, status, error) for error in errors]
    if Means.EXISTS in meanings:
        return AlreadyExists(status)
    if Means.WRONG_API_KEY in meanings or operation is Operation.AUTHENTICATE:
        raise LanePausedError("authentication_failed", detail, status=status)
    if not meanings or None in meanings:
        raise LanePausedError("unknown_refusal", detail, status=status)
    if Means.REFUSED in meanings:
        reason = "missing_not_accepted" if operation in _CREATES.values() else "refused"
        raise PermanentError(reason, detail, status=status)
    if Means.GONE in meanings:
        raise RetryableError("missing", detail, status=status)
    if Means.NO_CARD in meanings:
        return UnknownCard(status)
    return _missing(meanings, errors, status)


def unanswered(
    operation: Operation, reason: str, detail: str, *, status: int | None = None
) -> RelayError:
    """The error for a request that may have taken effect, or may simply be repeated."""
    if operation in _REPEATABLE:
        return RetryableError("no_answer", f"{reason} {detail}", status=status)
    return InDoubtError(reason, detail, status=status)


def shows_absent(operation: Operation, status: int, errors: tuple[SplioError, ...]) -> bool:
    """
    Whether a reply to reading says that there is no such thing.

    A bare 404 does not: a wrong address answers like that.
    """
    keys = _ABSENT_KEYS.get(operation, ("id",))
    return status == _NOT_FOUND and any(
        error.key in keys and "not found" in error.description.lower() for error in errors
    )


def shows_unknown_reward(status: int, errors: tuple[SplioError, ...], *, reward: str) -> bool:
    """
    Whether a reply to a grant says `<reward> not found`, which it does without key and slug.

    The whole text is compared: servers that know nothing of Splio say `404 page not found`.
    """
    text = f"{reward} not found".lower()
    return status == _NOT_FOUND and any(
        error.key == error.slug == "" and error.description.strip().lower() == text
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


def accept_member(status: int, body: bytes, *, program: int) -> Registered:
    """
    Believe a 201 to making a member: it tells a card, and our programme where it tells one.

    Raises: InDoubtError for anything else, since a second membership would be a second card.
    """
    operation = Operation.CREATE_MEMBER
    if status != _CREATED:
        raise InDoubtError("unreadable_reply", "not 201", status=status)
    document = read_object(operation, status, body)
    card = document.get("card_code")
    if isinstance(card, bool) or not isinstance(card, str | int) or not str(card).strip():
        raise unanswered(operation, "unreadable_reply", "no card_code", status=status)
    told = document.get("program")
    if isinstance(told, dict) and "id" in told and str(told["id"]) != str(program):
        raise unanswered(operation, "unreadable_reply", "another program", status=status)
    return Registered(str(card), status)


def accept_grant(status: int, body: bytes) -> Granted:
    """
    Believe a 200 to a grant: a list of `{uuid, external_ids[]}`, the codes given out.

    What a repeated idempotency key answers is not documented. An empty list is taken for a
    grant that Splio knew already: it names no error, and nothing else would be given out by it.
    Raises: InDoubtError for anything else, since a grant cannot be taken back.
    """
    if status != _OK:
        raise InDoubtError("unreadable_reply", "not 200", status=status)
    try:
        grants = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise InDoubtError("unreadable_reply", "not JSON", status=status) from None
    if not isinstance(grants, list):
        raise InDoubtError("unreadable_reply", "not a list", status=status)
    codes: list[str] = []
    for grant in grants:
        given = grant.get("external_ids") if isinstance(grant, dict) else None
        if not given or not isinstance(given, list) or not isinstance(grant.get("uuid"), str):
            raise InDoubtError("unreadable_reply", "no uuid or external_ids", status=status)
        if not all(isinstance(code, str) and code for code in given):
            raise InDoubtError("unreadable_reply", "no code", status=status)
        codes.extend(given)
    return Granted(status, tuple(codes))


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


def _missing(meanings: list[Means | None], errors: tuple[SplioError, ...], status: int) -> Missing:
    for means, error in zip(meanings, errors, strict=True):
        if means in _MISSING:
            named = _NAMED.search(error.description)
            name = (named["braced"] or named["bare"]) if named else None
            return Missing(_MISSING[means], name, status)
    raise AssertionError(f"no rule of {meanings} is handled")
