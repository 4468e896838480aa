"""The checkout's calls in a process that only receives: on the shared ledger, when it is there."""

import asyncio
import logging
from contextlib import AsyncExitStack

from consumers.stopping import pause
from service.checkout.desk import CheckoutDesk
from service.desk_setup import make_desk
from service.domain.errors import RelayError
from service.domain.ports import StepHook
from service.settings import Settings
from service.stores import make_clock, open_ledger, open_splio
from service.telemetry.metrics import Metrics
from service.web.shape_keeping import ShapeKeeper

logger = logging.getLogger("relay.checkout")


class LateDesk:
    """
    The worker that opens ledger and client for SCAYLE Checkout's calls, and keeps them open.

    Webhooks must not wait for the ledger, so the process starts without it: calls are answered
    503 until it is there, and `shapes` are kept in it from then on. What it finds in the way (a
    pending migration) is said each time.
    """

    name = "checkout"

    def __init__(
        self,
        settings: Settings,
        *,
        metrics: Metrics,
        shapes: ShapeKeeper,
        step: StepHook,
        again_s: float,
    ) -> None:
        assert settings.splio_url is not None, "checked with the settings"
        self._settings = settings
        self._url = settings.splio_url
        self._metrics = metrics
        self._shapes = shapes
        self._step = step
        self._again_s = again_s
        self._desk: CheckoutDesk | None = None

    def desk(self) -> CheckoutDesk | None:
        """The use cases, None while they cannot be carried out."""
        return self._desk

    def degraded(self) -> list[str]:
        """What is away while webhooks are taken all the same."""
        return [] if self._desk is not None else ["checkout_away"]

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                async with AsyncExitStack() as stack:
                    self._desk = await self._open(stack)
                    logger.info("checkout.opened")
                    await self._shapes.run(stop)
                    self._desk = None
            except RelayError as error:
                logger.error(
                    "checkout.not_opened", extra={"reason": error.reason, "detail": error.detail}
                )
                await pause(stop, self._again_s)

    async def _open(self, stack: AsyncExitStack) -> CheckoutDesk:
        settings, metrics = self._settings, self._metrics
        clock = await make_clock(settings)
        ledger = await stack.enter_async_context(
            open_ledger(settings, metrics=metrics, clock=clock, step=self._step)
        )
        stack.enter_context(self._shapes.kept_in(ledger))
        splio = await stack.enter_async_context(
            open_splio(settings, url=self._url, metrics=metrics, clock=clock, step=self._step)
        )
        desk = make_desk(
            settings,
            ledger,
            splio,
            splio.loyalty,
            offer=_left_to_consumers,
            clock=clock,
            metrics=metrics,
            step=self._step,
        )
        stack.push_async_callback(desk.close)
        return desk


def _left_to_consumers(_: object) -> None:
    """Effects that are due wait in the ledger; consumers poll it."""
