"""The Splio client: the `Splio` port over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from service.domain.clock import Clock
from service.domain.effects import (
    PREREQUISITE_LANE,
    EffectKey,
    Lane,
    Prerequisite,
    PrerequisiteKind,
    RenderedRequest,
)
from service.domain.errors import RetryableError
from service.domain.ports import (
    Answer,
    CreditPage,
    Operation,
    OrderComparison,
    OrderMatch,
    Permit,
    StepHook,
    no_step,
)
from service.splio.answers import (
    OK_STATUSES,
    accept_credit,
    accept_order,
    creation_of,
    read_object,
    shows_absent_order,
    unanswered,
)
from service.splio.config import SplioConfig
from service.splio.errors import parse_errors
from service.splio.exchange import Exchange, SplioPermit, refusal
from service.splio.loyalty import LoyaltyClient
from service.splio.readback import (
    UnreadableReplyError,
    booked_credit,
    compare,
    completion,
    credits_path,
    external_id_of,
    order_path,
    read_credits,
)
from service.splio.schedule import Schedule
from service.splio.telemetry import ClientMetrics
from service.splio.transport import Reply
from service.telemetry.metrics import Metrics

_PAGES_LIMIT: Final = 100  # of one card's credits; absence is never concluded from a part


class SplioClient:
    """
    Requests to one universe (`Splio`). Made by `open_splio_client`.

    `loyalty` asks for members, balances and rewards over the same exchange.
    """

    def __init__(
        self,
        exchange: Exchange,
        loyalty: LoyaltyClient,
        *,
        config: SplioConfig,
        metrics: ClientMetrics,
    ) -> None:
        self.loyalty = loyalty
        self._exchange = exchange
        self._points_kind = config.points_kind
        self._created = metrics.created
        self._creations: dict[tuple[PrerequisiteKind, str], asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Stop what is under way on its own account."""
        creations = list(self._creations.values())
        for creation in creations:
            creation.cancel()
        await asyncio.gather(*creations, return_exceptions=True)

    async def permit(self, lane: Lane) -> SplioPermit:
        """Wait until the limiter has room in `lane` and the breaker lets requests through."""
        return await self._exchange.permit(lane)

    async def post_order(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Answer:
        """Post an order (Accepted, AlreadyExists, Missing)."""
        operation = Operation.POST_ORDER
        reply = await self._exchange.post(
            operation,
            request,
            permit=permit,
            deadline_s=deadline_s,
            traceparent=traceparent,
        )
        if reply.status in OK_STATUSES:
            external_id = external_id_of(request)
            return accept_order(operation, reply.status, reply.body, external_id=external_id)
        return refusal(operation, reply)

    async def credit(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Answer:
        """Book points (Accepted, UnknownCard)."""
        operation = Operation.CREDIT
        reply = await self._exchange.post(
            operation,
            request,
            permit=permit,
            deadline_s=deadline_s,
            traceparent=traceparent,
        )
        if reply.status in OK_STATUSES:
            return accept_credit(reply.status, reply.body)
        return refusal(operation, reply)

    async def create(self, prerequisite: Prerequisite, *, traceparent: str) -> None:
        """
        Create a contact, product or store; one that exists already is fine.

        Who asks for the same one meanwhile waits for the same request.
        Raises: PermanentError `missing_not_accepted` for a documented refusal.
        """
        key = (prerequisite.kind, prerequisite.name)
        creation = self._creations.get(key)
        if creation is None:
            creation = asyncio.create_task(
                self._create(prerequisite, traceparent), name=f"splio.create.{prerequisite.kind}"
            )
            self._creations[key] = creation
            creation.add_done_callback(lambda _: self._creations.pop(key))
        await asyncio.shield(creation)

    async def compare_order(self, request: RenderedRequest, *, traceparent: str) -> OrderComparison:
        """Read the order that `request` would create and compare total, lines and card."""
        operation = Operation.READ_ORDER
        reply = await self._read(
            operation, order_path(external_id_of(request)), Lane.SALES, traceparent
        )
        if reply.status in OK_STATUSES:
            try:
                read_object(operation, reply.status, reply.body)
                return compare(request.body, reply.body)
            except UnreadableReplyError as error:
                raise unanswered(
                    operation, "unreadable_reply", str(error), status=reply.status
                ) from error
        if shows_absent_order(reply.status, parse_errors(reply.body)):
            return OrderComparison(OrderMatch.ABSENT)
        refusal(operation, reply)
        raise AssertionError("reading has no refusals that are answers")

    async def complete_cart(self, request: RenderedRequest, *, traceparent: str) -> Answer:
        """
        Turn the abandoned cart under the order's external id into this order (PATCH).

        Returns: Accepted, or Missing.
        Raises: RetryableError `missing` when the cart is gone.
        """
        operation = Operation.UPDATE_ORDER
        path, body = completion(request)
        permit = await self._exchange.permit(Lane.SALES)
        reply = await self._exchange.send(
            operation,
            "PATCH",
            path,
            body,
            permit=permit,
            deadline_s=self._exchange.own_deadline_s(),
            traceparent=traceparent,
            is_effect=True,
        )
        if reply.status in OK_STATUSES:
            external_id = external_id_of(request)
            return accept_order(operation, reply.status, reply.body, external_id=external_id)
        return refusal(operation, reply)

    async def count_credits(
        self, request: RenderedRequest, *, key: EffectKey, traceparent: str
    ) -> int:
        """How often Splio's points ledger shows a credit whose context is `key`."""
        credit = booked_credit(request)
        seen = 0
        after: str | None = None
        for _ in range(_PAGES_LIMIT):
            path = credits_path(credit.points_kind, order="desc", card=credit.card, after=after)
            page = await self._list_credits(path, after, traceparent)
            seen += page.contexts.count(key)
            if page.is_last:
                return seen
            if page.cursor == after:
                break
            after = page.cursor
        raise RetryableError("no_answer", "the card's credits have no end")

    async def list_credits(self, *, after: str | None) -> CreditPage:
        """A page of credits in the order Splio made them, beginning after the cursor."""
        path = credits_path(self._points_kind, order="asc", after=after)
        return await self._list_credits(path, after, "")

    async def _list_credits(self, path: str, after: str | None, traceparent: str) -> CreditPage:
        operation = Operation.LIST_POINTS
        reply = await self._read(operation, path, Lane.OTHER, traceparent)
        if reply.status not in OK_STATUSES:
            refusal(operation, reply)
        document = read_object(operation, reply.status, reply.body)
        try:
            return read_credits(document, after=after)
        except UnreadableReplyError as error:
            raise unanswered(
                operation, "unreadable_reply", str(error), status=reply.status
            ) from error

    async def _create(self, prerequisite: Prerequisite, traceparent: str) -> None:
        operation = creation_of(prerequisite.kind)
        permit = await self._exchange.permit(PREREQUISITE_LANE[prerequisite.kind])
        reply = await self._exchange.send(
            operation,
            "POST",
            prerequisite.path,
            prerequisite.body,
            permit=permit,
            deadline_s=self._exchange.own_deadline_s(),
            traceparent=traceparent,
        )
        if reply.status in OK_STATUSES:
            read_object(operation, reply.status, reply.body)
            self._created[prerequisite.kind].inc()
        else:
            refusal(operation, reply)

    async def _read(self, operation: Operation, path: str, lane: Lane, traceparent: str) -> Reply:
        permit = await self._exchange.permit(lane)
        deadline_s = self._exchange.own_deadline_s()
        return await self._exchange.send(
            operation,
            "GET",
            path,
            None,
            permit=permit,
            deadline_s=deadline_s,
            traceparent=traceparent,
        )


@asynccontextmanager
async def open_splio_client(
    config: SplioConfig,
    *,
    clock: Clock,
    metrics: Metrics,
    schedule: Schedule | None = None,
    step: StepHook = no_step,
) -> AsyncIterator[SplioClient]:
    """
    A client with its own connections; nothing is sent before the first call.

    Args:
        schedule: who owns the slots of the limiter; this process when None.
        step: called at the labelled steps of the requests that carry an effect.
    """
    own_metrics = ClientMetrics(metrics)
    exchange = Exchange(config, clock=clock, metrics=own_metrics, schedule=schedule, step=step)
    loyalty = LoyaltyClient(exchange, config=config, clock=clock)
    client = SplioClient(exchange, loyalty, config=config, metrics=own_metrics)
    try:
        yield client
    finally:
        await client.close()
        await exchange.close()
