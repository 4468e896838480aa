"""The operations API: paths over the operator's use cases."""

from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web

from service.domain.checkout import mask
from service.domain.effects import EffectKey
from service.domain.errors import (
    LedgerUnavailableError,
    NotFoundError,
    RelayError,
    WrongStateError,
)
from service.domain.ledger import DeadLetter, Page
from service.operations import BRAKED_NAMES, Changed, Operations, Selection
from service.web.answers import json_answer, problem
from service.web.assumed_shapes import assumed_of, differences
from service.web.authentication import BasicAuthentication
from service.web.bodies import BodyError, check_media_type, read_body
from service.web.dispatch import Handler, Router
from service.web.parameters import (
    MAX_TEXT,
    BadParameterError,
    Query,
    read_selection,
    read_whole,
)
from service.web.receipts import without_body
from service.web.shape_keeping import ShapeKeeper
from service.web.shapes import SeenShape

_BODY_LIMIT: Final = 64 * 1024
_BODY_TIMEOUT_S: Final = 10.0
_Answerer = Callable[[web.BaseRequest, Mapping[str, str]], Awaitable[Any]]


class OperationsApi:
    """
    Answers `/api/…`.

    Args:
        authentication: of the operator; None when no password is set, and then nothing can be
            changed.
        operator: who is recorded with a change.
    """

    def __init__(
        self,
        operations: Operations,
        *,
        authentication: BasicAuthentication | None,
        operator: str,
    ) -> None:
        self._operations = operations
        self._by = operator
        self._authentication = authentication

    def add_to(self, router: Router) -> None:
        """Register every path."""
        reads: dict[str, _Answerer] = {
            "/api/effects": self._list_effects,
            "/api/effects/{key}": self._show_effect,
            "/api/orders/{order_id}": self._show_order,
            "/api/dead-letters": self._list_dead_letters,
            "/api/dead-letters/{id}": self._show_dead_letter,
            "/api/holds": self._list_holds,
            "/api/holds/{key}": self._show_hold,
            "/api/lanes": self._list_lanes,
        }
        changes: dict[str, _Answerer] = {
            "/api/effects/{key}/look-up": self._look_up,
            "/api/effects/{key}/release": self._release,
            "/api/effects/{key}/reject": self._reject,
            "/api/holds/{key}/end": self._end_hold,
            "/api/dead-letters/replay": self._replay,
            "/api/dead-letters/dismiss": self._dismiss,
            "/api/lanes/{lane}/release": self._release_lane,
        }
        for path, answerer in reads.items():
            router.add("GET", path, _answering(answerer))
        for path, answerer in changes.items():
            router.add("POST", path, self._changing(_answering(answerer)))

    def _changing(self, handler: Handler) -> Handler:
        """Let only the operator through, and no page of another site."""

        async def answer(request: web.BaseRequest, bound: Mapping[str, str]) -> web.StreamResponse:
            if self._authentication is None:
                return problem(
                    403,
                    "no-operations-password",
                    "Nothing can be changed here",
                    "Set RELAY_OPERATIONS_PASSWORD and start again.",
                )
            refusal = self._authentication.refusal(request)
            if refusal is not None:
                return refusal
            # A browser sends stored credentials along with another site's request, and says so.
            if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
                return problem(403, "cross-site", "Not from another site's page")
            return await handler(request, bound)

        return answer

    async def _list_effects(self, request: web.BaseRequest, _: Mapping[str, str]) -> Any:
        query = Query(request, known=("state", "kind", "order_id", "limit", "after"))
        return _page(
            await self._operations.list_effects(
                states=query.states(),
                kind=query.kind(),
                order_id=query.text("order_id"),
                limit=query.limit(),
                after=query.text("after"),
            )
        )

    async def _show_effect(self, request: web.BaseRequest, bound: Mapping[str, str]) -> Any:
        Query(request, known=())
        return await self._operations.show_effect(_key(bound))

    async def _show_order(self, request: web.BaseRequest, bound: Mapping[str, str]) -> Any:
        Query(request, known=())
        return await self._operations.show_order(_text("order_id", bound))

    async def _look_up(self, request: web.BaseRequest, bound: Mapping[str, str]) -> Any:
        key = _key(bound)
        verdict = await self._operations.look_up(key, by=self._by)
        return {"verdict": verdict, "effect": await self._operations.show_effect(key)}

    async def _release(self, request: web.BaseRequest, bound: Mapping[str, str]) -> Any:
        key = _key(bound)
        await self._operations.release(key, by=self._by)
        return await self._operations.show_effect(key)

    async def _reject(self, request: web.BaseRequest, bound: Mapping[str, str]) -> Any:
        key = _key(bound)
        await self._operations.reject(key, by=self._by)
        return await self._operations.show_effect(key)

    async def _list_dead_letters(self, request: web.BaseRequest, _: Mapping[str, str]) -> Any:
        query = Query(request, known=("reason", "since", "until", "open", "limit", "after"))
        after = query.text("after")
        return _page(
            await self._operations.list_dead_letters(
                reason=query.text("reason"),
                since_ms=query.time_ms("since"),
                until_ms=query.time_ms("until"),
                only_open=query.flag("open"),
                limit=query.limit(),
                after=None if after is None else str(read_whole("after", after)),
            )
        )

    async def _list_holds(self, request: web.BaseRequest, _: Mapping[str, str]) -> Any:
        query = Query(request, known=("open", "limit", "after"))
        return _page(
            await self._operations.list_holds(
                only_open=query.flag("open"), limit=query.limit(), after=query.text("after")
            )
        )

    async def _show_hold(self, request: web.BaseRequest, bound: Mapping[str, str]) -> Any:
        Query(request, known=())
        with_card, refusal = self._is_operator(request)
        if refusal is not None:
            return refusal
        hold = await self._operations.show_hold(_key(bound))
        return hold if with_card else {**hold, "card": mask(hold["card"])}

    async def _end_hold(self, request: web.BaseRequest, bound: Mapping[str, str]) -> Any:
        key = _key(bound)
        await self._operations.end_hold(key, by=self._by)
        hold = await self._operations.show_hold(key)
        return {**hold, "card": mask(hold["card"])}

    def _is_operator(self, request: web.BaseRequest) -> tuple[bool, web.Response | None]:
        """
        Whether what is for the operator alone (personal data) may be shown; or the refusal of
        who claims to be it.
        """
        if self._authentication is None or "Authorization" not in request.headers:
            return False, None
        refusal = self._authentication.refusal(request)
        return refusal is None, refusal

    async def _show_dead_letter(self, request: web.BaseRequest, bound: Mapping[str, str]) -> Any:
        Query(request, known=())
        with_record, refusal = self._is_operator(request)
        if refusal is not None:
            return refusal
        dead_letter_id = read_whole("id", bound["id"])
        return _dead_letter(
            await self._operations.show_dead_letter(dead_letter_id), with_record=with_record
        )

    async def _replay(self, request: web.BaseRequest, _: Mapping[str, str]) -> Any:
        return _changes(await self._operations.replay(await _selection(request), by=self._by))

    async def _dismiss(self, request: web.BaseRequest, _: Mapping[str, str]) -> Any:
        return _changes(await self._operations.dismiss(await _selection(request), by=self._by))

    async def _list_lanes(self, request: web.BaseRequest, _: Mapping[str, str]) -> Any:
        Query(request, known=())
        return {"items": await self._operations.lanes(), "next": None}

    async def _release_lane(self, request: web.BaseRequest, bound: Mapping[str, str]) -> Any:
        lane = bound["lane"]
        if lane not in BRAKED_NAMES:
            raise NotFoundError("no_such_lane", f"there are {', '.join(BRAKED_NAMES)}")
        await self._operations.release_lane(lane, by=self._by)
        return {"lane": lane, "released": True}


def add_shapes(router: Router, shapes: ShapeKeeper) -> None:
    """Register `/api/shapes`, which needs no ledger."""

    async def list_shapes(request: web.BaseRequest, _: Mapping[str, str]) -> Any:
        Query(request, known=())
        seen = await shapes.seen()
        items = [_shape(shape) for shape in seen.shapes]
        return {"items": items, "next": None, "is_shared": seen.is_shared}

    router.add("GET", "/api/shapes", _answering(list_shapes))


def _answering(answerer: _Answerer) -> Handler:
    """Turn what `answerer` returns into JSON and what it raises into a problem document."""

    async def answer(request: web.BaseRequest, bound: Mapping[str, str]) -> web.StreamResponse:
        try:
            document = await answerer(request, bound)
        except BadParameterError as error:
            return problem(
                400, "bad-parameter", "A parameter is wrong", str(error), parameter=error.parameter
            )
        except NotFoundError as error:
            return problem(404, "not-found", "There is no such thing", str(error))
        except WrongStateError as error:
            return problem(409, "wrong-state", "Its state does not allow this", str(error))
        except LedgerUnavailableError as error:
            return problem(
                503,
                "unavailable",
                "The ledger does not answer now",
                error.reason,
                headers={"Retry-After": "5"},
            )
        except BodyError as error:
            return without_body(error, limit_bytes=_BODY_LIMIT).answer
        except RelayError as error:
            # What a look-up meets at Splio; the effect stays in doubt.
            return problem(
                503,
                "no-answer",
                "Splio did not answer the question",
                error.reason,
                headers={"Retry-After": "5"},
            )
        return document if isinstance(document, web.StreamResponse) else json_answer(document)

    return answer


async def _selection(request: web.BaseRequest) -> Selection:
    check_media_type(request)
    body = await read_body(request, limit_bytes=_BODY_LIMIT, timeout_s=_BODY_TIMEOUT_S)
    return read_selection(body)


def _key(bound: Mapping[str, str]) -> EffectKey:
    return EffectKey(_text("key", bound))


def _text(name: str, bound: Mapping[str, str]) -> str:
    text = bound[name]
    if len(text) > MAX_TEXT:
        raise BadParameterError(name, f"is longer than {MAX_TEXT} characters")
    return text


def _shape(shape: SeenShape) -> dict[str, Any]:
    """The shape with its differences from what we assume; null where we assume nothing."""
    assumed = assumed_of(shape.source)
    found = None
    if assumed is not None:
        found = list(map(asdict, differences(shape.fields, assumed, is_cut=shape.is_cut)))
    return {**shape.to_json(), "differences": found}


def _page(page: Page) -> dict[str, Any]:
    return {"items": list(page.items), "next": page.next}


def _changes(changed: list[Changed]) -> dict[str, Any]:
    return {
        "done": sum(not change.problem for change in changed),
        "items": [{"id": change.id, "problem": change.problem} for change in changed],
    }


def _dead_letter(dead_letter: DeadLetter, *, with_record: bool) -> dict[str, Any]:
    """`record` is the text of the original bytes, or their base64 where they are no text."""
    document: dict[str, Any] = {
        "id": dead_letter.id,
        "reason": dead_letter.reason,
        "kind": dead_letter.kind,
        "effect_key": dead_letter.effect_key,
        "order_id": dead_letter.order_id,
        "event_id": dead_letter.event_id,
        "event_type": dead_letter.event_type,
        "detail": dead_letter.detail,
        "topic": dead_letter.topic,
        "partition": dead_letter.partition,
        "offset": dead_letter.offset,
        "at": dead_letter.at_ms,
        "times_seen": dead_letter.times_seen,
        "replayed_at": dead_letter.replayed_at_ms,
        "dismissed_at": dead_letter.dismissed_at_ms,
    }
    if with_record:
        try:
            document["record"] = dead_letter.record.decode()
        except UnicodeDecodeError:
            document["record_base64"] = b64encode(dead_letter.record).decode()
    return document
