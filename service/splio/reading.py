"""Reads one thing over the exchange: what the reply shows, or that there is none."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from service.domain.ports import Operation, Permit
from service.splio.answers import OK_STATUSES, read_object, shows_absent, unanswered
from service.splio.errors import parse_errors
from service.splio.exchange import Exchange, refusal
from service.splio.readback import UnreadableReplyError, parse_exact

_Shown = TypeVar("_Shown")


async def read_one(
    exchange: Exchange,
    operation: Operation,
    path: str | None,
    read: Callable[[Mapping[str, Any]], _Shown],
    *,
    permit: Permit,
    deadline_s: float,
    traceparent: str,
) -> _Shown | None:
    """
    What `read` finds in the reply, whose numbers are exact; None where Splio says that there is
    no such thing. Uses up `permit` or hands it back.

    Args:
        path: None for what cannot be asked for, which is nobody's.
        read: raises UnreadableReplyError for what is not to be believed.
    Raises: RetryableError, LanePausedError.
    """
    if path is None:
        permit.hand_back()
        return None
    reply = await exchange.send(
        operation,
        "GET",
        path,
        None,
        permit=permit,
        deadline_s=deadline_s,
        traceparent=traceparent,
    )
    if reply.status in OK_STATUSES:
        read_object(operation, reply.status, reply.body)
        try:
            return read(parse_exact(reply.body))
        except UnreadableReplyError as error:
            raise unanswered(
                operation, "unreadable_reply", str(error), status=reply.status
            ) from error
    # The points ledger is the universe's: there is no card that it could miss.
    is_of_one = operation is not Operation.LIST_POINTS
    if is_of_one and shows_absent(reply.status, parse_errors(reply.body)):
        return None
    refusal(operation, reply)
    raise AssertionError("reading has no refusals that are answers")
