"""Reads over the exchange: what the replies show, or that there is none."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from service.domain.effects import Lane
from service.domain.errors import RetryableError
from service.domain.ports import Operation, Permit
from service.splio.answers import OK_STATUSES, read_object, shows_absent, unanswered
from service.splio.errors import parse_errors
from service.splio.exchange import Exchange, refusal
from service.splio.readback import UnreadableReplyError, parse_exact, read_page

_PAGES_LIMIT: Final = 100  # of one list; absence is never concluded from a part

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
    if shows_absent(operation, reply.status, parse_errors(reply.body)):
        return None
    refusal(operation, reply)
    raise AssertionError("reading has no refusals that are answers")


async def read_pages(
    exchange: Exchange,
    operation: Operation,
    path: Callable[..., str | None],
    *,
    traceparent: str,
) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
    """
    The elements of all pages of a list, page by page; none of a list that does not exist.

    Args:
        path: of the page after the cursor `after`.
    Raises: as `read_one`; RetryableError `no_answer` for a list without an end.
    """
    after: str | None = None
    for _ in range(_PAGES_LIMIT):
        page = await read_one(
            exchange,
            operation,
            path(after=after),
            read_page,
            permit=await exchange.permit(Lane.OTHER),
            deadline_s=exchange.own_deadline_s(),
            traceparent=traceparent,
        )
        if page is None:
            return
        yield page.elements
        if page.following is None:
            return
        if page.following == after:
            break
        after = page.following
    raise RetryableError("no_answer", "the list has no end")
