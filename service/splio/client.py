"""The Splio client: the `Splio` port over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from service.domain.clock import Clock
from service.domain.effects import (
    PREREQUISITE_LANE,
    EffectKey,
    Lane,
    Prerequisite,
    PrerequisiteKind,
    RenderedRequest,
)
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
)
from service.splio.config import SplioConfig
from service.splio.exchange import Exchange, SplioPermit, refusal
from service.splio.loyalty import LoyaltyClient
from service.splio.readback import (
    booked_credit,
    compare,
    completion,
    credits_path,
    external_id_of,
    order_path,
    read_credits,
    reason_of,
)
from service.splio.reading import read_one, read_pages
from service.splio.schedule import Schedule
from service.splio.telemetry import ClientMetrics
from service.telemetry.metrics import Metrics


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
        found = await read_one(
            self._exchange,
            Operation.READ_ORDER,
            order_path(external_id_of(request)),
            partial(compare, request.body),
            permit=await self._exchange.permit(Lane.SALES),
            deadline_s=self._exchange.own_deadline_s(),
            traceparent=traceparent,
        )
        return found if found is not None else OrderComparison(OrderMatch.ABSENT)

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
        path = partial(credits_path, credit.points_kind, order="desc", card=credit.card)
        seen = 0
        async for elements in read_pages(
            self._exchange, Operation.LIST_POINTS, path, traceparent=traceparent
        ):
            seen += [reason_of(element) for element in elements].count(key)
        return seen

    async def list_credits(self, *, after: str | None) -> CreditPage:
        """A page of credits in the order Splio made them, beginning after the cursor."""
        page = await read_one(
            self._exchange,
            Operation.LIST_POINTS,
            credits_path(self._points_kind, order="asc", after=after),
            partial(read_credits, after=after),
            permit=await self._exchange.permit(Lane.OTHER),
            deadline_s=self._exchange.own_deadline_s(),
            traceparent="",
        )
        assert page is not None, "the points ledger is never absent"
        return page

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
