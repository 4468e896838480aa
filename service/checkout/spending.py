"""Points spent, given back and collected: the calls that change the ledger and nothing else."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from service.checkout.arrival import Arrival
from service.checkout.cards import Programs
from service.checkout.rates import Rates
from service.domain.call_planning import CallPlanner, call_body
from service.domain.checkout import (
    Call,
    CallOperation,
    CheckoutLedger,
    Recorded,
    Recording,
    Spending,
)
from service.domain.ledger import Disposition, ReadyEffect
from service.domain.planning import PointsFrom
from service.telemetry.metrics import Metrics

Offer = Callable[[Sequence[ReadyEffect]], None]

logger = logging.getLogger("relay.checkout")


_RECORDED: Final = {
    Disposition.PLANNED: Recorded.TAKEN,
    Disposition.REPEATED: Recorded.REPEATED,
    Disposition.CONFLICT: Recorded.CONFLICT,
}


class Spendings:
    """
    Records captures, refunds and collects; Splio is not asked.

    `offer` takes effects that are due to the dispatcher of this process, where there is one.
    Raises: NotFoundError, RetryableError of `Rates.points`; LedgerUnavailableError.
    """

    def __init__(
        self,
        ledger: CheckoutLedger,
        planner: CallPlanner,
        programs: Programs,
        rates: Rates,
        *,
        points_from: PointsFrom,
        offer: Offer,
        metrics: Metrics,
    ) -> None:
        self._ledger = ledger
        self._planner = planner
        self._programs = programs
        self._rates = rates
        self._points_from = points_from
        self._offer = offer
        self._metrics = metrics

    async def capture(self, spending: Spending, arrival: Arrival) -> Recorded:
        """
        Take points that an order was paid with; how many is worked out of `spending.amount`.

        More than the card has is taken all the same, as the order is confirmed, and alarms.
        """
        spending = await self._in_points(spending, arrival)
        call = _call(CallOperation.CAPTURE, spending, arrival)
        recording = await self._ledger.record_capture(self._planner.capture(spending, call))
        recorded = self._noted(CallOperation.CAPTURE, recording)
        if recorded is Recorded.TAKEN:
            self._metrics.points_captured.inc(spending.points)
            if recording.over_balance:
                self._metrics.captures_over_balance.inc()
                logger.error(
                    "capture.over_balance",
                    extra={"order_id": spending.order_key, "points": spending.points},
                )
        return recorded

    async def refund(self, spending: Spending, arrival: Arrival) -> Recorded:
        """Give points of a capture back, worked out of `spending.amount`."""
        spending = await self._in_points(spending, arrival)
        call = _call(CallOperation.REFUND, spending, arrival)
        recording = await self._ledger.record_refund(self._planner.refund(spending, call))
        return self._noted(CallOperation.REFUND, recording)

    async def collect(self, spending: Spending, arrival: Arrival) -> Recorded | None:
        """Book the points of an order; None where another way books them."""
        self._programs.splio_id(spending.program)
        if self._points_from is not PointsFrom.COLLECT:
            return None
        call = _call(CallOperation.COLLECT, spending, arrival)
        plan = self._planner.collect(
            order_key=spending.order_key,
            card=spending.card,
            points=spending.points,
            received_at_ms=arrival.received_at_ms,
        )
        result = await self._ledger.record_call(call, plan)
        recording = Recording(_RECORDED[result.disposition], result.fresh)
        return self._noted(CallOperation.COLLECT, recording)

    async def _in_points(self, spending: Spending, arrival: Arrival) -> Spending:
        self._programs.splio_id(spending.program)
        points = await self._rates.points(
            spending.amount, spending.program, spending.currency, arrival
        )
        return replace(spending, points=points)

    def _noted(self, operation: CallOperation, recording: Recording) -> Recorded:
        """What was recorded; what is due goes to the dispatcher, a dead letter is told."""
        self._offer(recording.fresh)
        recorded = recording.recorded
        if recorded in {Recorded.CONFLICT, Recorded.MORE_THAN_CAPTURED}:
            self._metrics.dead_letters.labels("checkout", recorded.value).inc()
            logger.error("call.conflict", extra={"operation": operation, "reason": recorded.value})
        return recorded


def _call(operation: CallOperation, spending: Spending, arrival: Arrival) -> Call:
    return Call(
        operation=operation,
        call_id=arrival.call_id,
        order_key=spending.order_key,
        body=call_body(operation, spending),
        received_at_ms=arrival.received_at_ms,
        traceparent=arrival.traceparent,
    )
