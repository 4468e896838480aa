"""The loyalty doors: what SCAYLE Checkout asks of a loyalty adapter."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import orjson
from aiohttp import web

from producers.event_ids import EventIds
from service.checkout.arrival import Arrival
from service.checkout.desk import CheckoutDesk
from service.checkout.spending import Spendings
from service.domain.checkout import CallOperation, Recorded, Spending
from service.domain.clock import Clock
from service.domain.errors import (
    InDoubtError,
    LanePausedError,
    LedgerUnavailableError,
    NotFoundError,
    PermanentError,
    RelayError,
    RetryableError,
)
from service.domain.ports import Step, StepHook, no_step
from service.telemetry.metrics import LOYALTY_OUTCOMES, Metrics
from service.telemetry.tracing import continue_trace, trace_id
from service.web.answers import json_answer, problem, ready_answer
from service.web.bodies import BodyError, check_media_type, read_body
from service.web.call_fields import FieldError, Fields
from service.web.dispatch import ANY_METHOD, Handler, Router, method_not_allowed
from service.web.loyalty_fields import (
    read_card,
    read_collect,
    read_rate,
    read_register,
    read_spending,
    read_verify,
)
from service.web.loyalty_methods import METHODS
from service.web.receipts import Receipt, unauthorized, unavailable, without_body
from service.web.shapes import ShapeLog
from service.web.tokens import TokenAuthentication

_RECORDING: Final = frozenset(
    {
        CallOperation.REGISTER,
        CallOperation.COLLECT,
        CallOperation.CAPTURE,
        CallOperation.REFUND,
    }
)
_MALFORMED: Final = ("malformed", "refused")  # outcomes of a call that cannot be done as it is
_RETRY_AFTER_S: Final = 2.0
_ANSWERING_S: Final = 0.25  # of a call's time, left for its answer when Splio says nothing
_CONFLICTS: Final = {
    Recorded.CONFLICT: "This key is known with another amount or card",
    Recorded.MORE_THAN_CAPTURED: "More would be given back than was captured",
}
# Of Splio's refusals, those that another request would mend.
_CALLERS_FAULT: Final = ("contact_key_missing", "not_storable")

logger = logging.getLogger("relay.loyalty")


@dataclass(frozen=True, slots=True)
class LoyaltyConfig:
    """
    What a call may cost, and how is answered what SCAYLE does not document.

    `timeout_s`: of a whole call, its body included. `invalid_status`: of a no to validate and
    verify. `rate_fields`: the names that the conversion factor stands under, all at once.
    """

    timeout_s: float
    body_bytes: int
    invalid_status: int
    rate_fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call that was understood so far."""

    request: web.BaseRequest
    desk: CheckoutDesk
    fields: Fields
    arrival: Arrival


class LoyaltyDoor:
    """
    Answers the eight operations.

    Args:
        desk: the use cases, None while the ledger is away.
        accepting: whether calls may be taken now; False (disk low, stopping) answers 503.
        shapes: told what each call looks like, also one that cannot be understood.
        step: called when what a call asks for is recorded and not answered yet.
    """

    def __init__(
        self,
        desk: Callable[[], CheckoutDesk | None],
        *,
        authentication: TokenAuthentication,
        metrics: Metrics,
        clock: Clock,
        accepting: Callable[[], bool],
        config: LoyaltyConfig,
        shapes: ShapeLog,
        step: StepHook = no_step,
    ) -> None:
        self._desk = desk
        self._authentication = authentication
        self._clock = clock
        self._accepting = accepting
        self._config = config
        self._shapes = shapes
        self._step = step
        self._ids = EventIds(clock)
        self._count = {
            (operation, outcome): metrics.loyalty_calls.labels(operation.value, outcome)
            for operation in CallOperation
            for outcome in LOYALTY_OUTCOMES
        }
        self._observe_s = {
            operation: metrics.loyalty_call_seconds.labels(operation.value).observe
            for operation in CallOperation
        }
        self._operations: Mapping[CallOperation, Callable[[_Asked], Awaitable[Receipt]]] = {
            CallOperation.POINTS_RATE: self._points_rate,
            CallOperation.BALANCE: self._balance,
            CallOperation.VALIDATE: self._validate,
            CallOperation.VERIFY: self._verify,
            CallOperation.REGISTER: self._register,
            CallOperation.COLLECT: partial(_record, read=read_collect, record=Spendings.collect),
            CallOperation.CAPTURE: partial(_record, read=read_spending, record=Spendings.capture),
            CallOperation.REFUND: partial(_record, read=read_spending, record=Spendings.refund),
        }

    @property
    def invalid_status(self) -> int:
        """The status of a no, for the document."""
        return self._config.invalid_status

    def add_to(self, router: Router) -> None:
        """Answer `/loyalty/…` on `router`."""
        for operation in METHODS:
            router.add(ANY_METHOD, f"/loyalty/{operation}", self._handler(operation))

    def _handler(self, operation: CallOperation) -> Handler:
        async def answer(request: web.BaseRequest, _: Mapping[str, str]) -> web.StreamResponse:
            started_s = self._clock.monotonic_s()
            receipt = await self._receive(operation, request)
            duration_s = self._clock.monotonic_s() - started_s
            self._count[operation, receipt.outcome].inc()
            self._observe_s[operation](duration_s)
            logger.log(
                receipt.level,
                "call.answered",
                extra={
                    "operation": operation.value,
                    "outcome": receipt.outcome,
                    "status": receipt.answer.status,
                    "duration_s": round(duration_s, 6),
                    **receipt.fields,
                },
            )
            return receipt.answer

        return answer

    async def _receive(self, operation: CallOperation, request: web.BaseRequest) -> Receipt:
        refusal = self._authentication.refusal(request, operation)
        if refusal is not None:
            # Under a name of its own: strangers must not replace what SCAYLE sends.
            self._shapes.note(f"loyalty:{operation}:refused", request=request)
            return unauthorized(refusal)
        if request.method not in METHODS[operation]:
            self._shapes.note(f"loyalty:{operation}:malformed", request=request)
            return Receipt("malformed", method_not_allowed(METHODS[operation]))
        trace = continue_trace(request.headers.get("traceparent"))
        timeout_s = self._config.timeout_s
        deadline_s = self._clock.monotonic_s() + max(timeout_s - _ANSWERING_S, timeout_s / 2)
        body: bytes | None = None
        try:
            async with asyncio.timeout(timeout_s):
                check_media_type(request)
                body = await read_body(request, limit_bytes=self._config.body_bytes, timeout_s=None)
                self._shapes.note(f"loyalty:{operation}", body=body, request=request)
                receipt = await self._carry_out(operation, request, body, trace, deadline_s)
        except BodyError as error:
            receipt = without_body(error, limit_bytes=self._config.body_bytes)
        except FieldError as error:
            receipt = _not_understood(operation, error)
        except TimeoutError:
            receipt = unavailable("took_too_long", _RETRY_AFTER_S)
            receipt.answer.force_close()  # the body may not have been read to its end
        except RelayError as error:
            receipt = _failed(error)
        if body is None or receipt.outcome in _MALFORMED:
            self._shapes.note(f"loyalty:{operation}:malformed", body=body, request=request)
        receipt.fields["trace_id"] = trace_id(trace)
        return receipt

    async def _carry_out(
        self,
        operation: CallOperation,
        request: web.BaseRequest,
        body: bytes,
        trace: str,
        deadline_s: float,
    ) -> Receipt:
        desk = self._desk()
        if desk is None or not self._accepting():
            return unavailable("not_accepting", _RETRY_AFTER_S)
        fields = Fields.of_call(
            request.method,
            request.rel_url.raw_query_string,
            body,
            program=desk.programs.only,
        )
        arrival = Arrival(self._ids.next(), self._clock.now_ms(), trace, deadline_s)
        receipt = await self._operations[operation](_Asked(request, desk, fields, arrival))
        if operation in _RECORDING:
            self._step(Step.CALL_RECORDED)
        return receipt

    async def _points_rate(self, asked: _Asked) -> Receipt:
        call = read_rate(asked.fields)
        factor = await asked.desk.rates.factor(call.program, call.currency, asked.arrival)
        return _answered(asked, dict.fromkeys(self._config.rate_fields, _number(factor)))

    async def _balance(self, asked: _Asked) -> Receipt:
        call = read_card(asked.fields)
        asked.desk.programs.splio_id(call.program)
        usable = await asked.desk.balances.usable(call.card, asked.arrival)
        if usable is None:
            raise NotFoundError("unknown_card", "Splio knows no member with this card")
        return _answered(asked, {"balance": usable})

    async def _validate(self, asked: _Asked) -> Receipt:
        call = read_card(asked.fields)
        return self._judged(
            asked, await asked.desk.cards.is_good(call.card, call.program, asked.arrival)
        )

    async def _verify(self, asked: _Asked) -> Receipt:
        call = read_verify(asked.fields)
        return self._judged(
            asked,
            await asked.desk.cards.belongs_to(call.card, call.email, call.program, asked.arrival),
        )

    def _judged(self, asked: _Asked, is_valid: bool) -> Receipt:
        if is_valid:
            return _answered(asked, {"valid": True})
        answer = json_answer({"valid": False}, status=self._config.invalid_status)
        return Receipt("invalid", answer)

    async def _register(self, asked: _Asked) -> Receipt:
        call = read_register(asked.fields)
        card = await asked.desk.registrations.register(
            call.customer, call.program, asked.arrival, language=call.language
        )
        document = {"cardKey": card.number, "cardNumber": card.number}
        status = HTTPStatus.CREATED if card.is_new else HTTPStatus.OK
        return Receipt("answered", json_answer(document, status=status))


async def _record(
    asked: _Asked,
    *,
    read: Callable[[Fields], Spending],
    record: Callable[[Spendings, Spending, Arrival], Awaitable[Recorded | None]],
) -> Receipt:
    spending = read(asked.fields)
    recorded = await record(asked.desk.spendings, spending, asked.arrival)
    fields = {"order_id": spending.order_key}
    if recorded in _CONFLICTS:
        answer = problem(
            HTTPStatus.CONFLICT,
            recorded.value.replace("_", "-"),
            _CONFLICTS[recorded],
            "It was set aside for a person; sending it again changes nothing.",
        )
        return Receipt(recorded.value, answer, logging.ERROR, fields)
    outcome = "counted" if recorded is None else recorded.value
    return Receipt(outcome, ready_answer(asked.request, b"{}"), fields=fields)


def _answered(asked: _Asked, document: Mapping[str, Any]) -> Receipt:
    return Receipt("answered", ready_answer(asked.request, orjson.dumps(document)))


def _not_understood(operation: CallOperation, error: FieldError) -> Receipt:
    status = error.status
    if operation is CallOperation.COLLECT and error.field == "orderId":
        status = HTTPStatus.UNPROCESSABLE_ENTITY  # without an order nothing can be booked
    return Receipt(
        "malformed",
        problem(
            status,
            "not-understood",
            "The call cannot be understood",
            str(error),
            parameter=error.field,
        ),
        logging.WARNING,
        {"reason": f"{error.field} {error.problem}"},
    )


def _failed(error: RelayError) -> Receipt:
    """The answer to an error of a use case; SCAYLE may send what gets a 503 again."""
    match error:
        case NotFoundError(reason=reason, detail=detail):
            slug = reason.replace("_", "-")
            return Receipt(
                "unknown",
                problem(HTTPStatus.NOT_FOUND, slug, "There is no such thing", detail),
                fields={"reason": reason},
            )
        case PermanentError(reason=reason, detail=detail):
            status = (
                HTTPStatus.BAD_REQUEST
                if reason in _CALLERS_FAULT
                else HTTPStatus.UNPROCESSABLE_ENTITY
            )
            return Receipt(
                "refused",
                problem(status, reason.replace("_", "-"), "It cannot be done", detail),
                logging.WARNING,
                {"reason": reason},
            )
        case RetryableError(reason=reason, retry_after_s=retry_after_s, detail=detail):
            return unavailable(reason, retry_after_s or _RETRY_AFTER_S, detail)
        case LedgerUnavailableError() | LanePausedError() | InDoubtError():
            return unavailable(error.reason, _RETRY_AFTER_S)
        case _:
            raise error


def _number(factor: Decimal) -> orjson.Fragment:
    """An exact JSON number."""
    return orjson.Fragment(f"{factor:f}")
