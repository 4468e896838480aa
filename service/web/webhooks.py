"""The webhooks' door: nothing is answered 200 that is not durable."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from producers.events import EventPublisher
from service.domain.clock import Clock
from service.domain.errors import LogUnavailableError, PermanentError
from service.domain.ports import Step, StepHook, no_step
from service.scayle.webhook import (
    IgnoredWebhook,
    NotAnEventError,
    UnreadableWebhook,
    read_webhook,
)
from service.telemetry.metrics import WEBHOOK_OUTCOMES, Metrics
from service.telemetry.tracing import continue_trace, trace_id
from service.web.answers import problem, ready_answer
from service.web.authentication import BasicAuthentication
from service.web.bodies import BodyError, check_media_type, read_body
from service.web.receipts import Receipt, unauthorized, unavailable, without_body
from service.web.shapes import ShapeLog

_TYPE_LIMIT: Final = 64  # characters of an event type that a log line repeats

logger = logging.getLogger("relay.webhooks")


@dataclass(frozen=True, slots=True)
class WebhookLimits:
    """What one webhook may cost."""

    body_bytes: int = 512 * 1024
    body_timeout_s: float = 10.0


class WebhookDoor:
    """
    Takes SCAYLE's webhooks.

    Args:
        accepting: whether events may be taken now; False (disk low, stopping) answers 503.
        shapes: told what each event looks like.
    """

    def __init__(
        self,
        publisher: EventPublisher,
        *,
        authentication: BasicAuthentication,
        metrics: Metrics,
        clock: Clock,
        accepting: Callable[[], bool],
        limits: WebhookLimits = WebhookLimits(),
        shapes: ShapeLog | None = None,
        step: StepHook = no_step,
    ) -> None:
        self._publisher = publisher
        self._authentication = authentication
        self._clock = clock
        self._accepting = accepting
        self._limits = limits
        self._shapes = shapes
        self._step = step
        self._count = {
            outcome: metrics.webhooks.labels(outcome=outcome) for outcome in WEBHOOK_OUTCOMES
        }
        self._observe_s = metrics.webhook_seconds.observe

    async def __call__(self, request: web.BaseRequest, _: Mapping[str, str]) -> web.StreamResponse:
        """Answer one webhook, count it and write its log line."""
        started_s = self._clock.monotonic_s()
        receipt = await self._receive(request)
        duration_s = self._clock.monotonic_s() - started_s
        self._count[receipt.outcome].inc()
        self._observe_s(duration_s)
        if logger.isEnabledFor(receipt.level):
            fields = receipt.fields
            fields["outcome"] = receipt.outcome
            fields["duration_s"] = round(duration_s, 6)
            line = _LINES.get(receipt.outcome, "webhook.refused")
            # Without the search for the calling line that `logger.info` begins with.
            logger.handle(
                logger.makeRecord(
                    logger.name, receipt.level, __file__, 0, line, (), None, extra=fields
                )
            )
        return receipt.answer

    async def _receive(self, request: web.BaseRequest) -> Receipt:
        refusal = self._authentication.refusal(request)
        if refusal is not None:
            return unauthorized(refusal)
        try:
            check_media_type(request)
            if not self._accepting():
                return unavailable("not_accepting", 1.0)
            body = await read_body(
                request,
                limit_bytes=self._limits.body_bytes,
                timeout_s=self._limits.body_timeout_s,
            )
        except BodyError as error:
            return without_body(error, limit_bytes=self._limits.body_bytes)
        self._step(Step.WEBHOOK_READ)
        try:
            return await self._publish(request, body)
        except NotAnEventError as error:
            return Receipt(
                "malformed",
                problem(
                    400,
                    "not-an-event",
                    "The body is not a JSON object with a text `type`",
                    error.reason,
                ),
                fields={"reason": error.reason, "size_bytes": len(body)},
            )
        except LogUnavailableError as error:
            return unavailable(error.reason, error.retry_after_s)
        except PermanentError as error:
            # The log will never take it, but SCAYLE can keep it until a person has looked.
            return unavailable(error.reason, 60.0)

    async def _publish(self, request: web.BaseRequest, body: bytes) -> Receipt:
        webhook = read_webhook(body)
        if self._shapes is not None:
            self._shapes.note(f"webhook:{webhook.event_type[:_TYPE_LIMIT]}", body=body)
        fields: dict[str, Any] = {"event_type": webhook.event_type, "size_bytes": len(body)}
        if isinstance(webhook, IgnoredWebhook):
            fields["event_type"] = webhook.event_type[:_TYPE_LIMIT]
            return Receipt("ignored", ready_answer(request, _IGNORED), fields=fields)
        trace = continue_trace(request.headers.get("traceparent"))
        fields["trace_id"] = trace_id(trace)
        if isinstance(webhook, UnreadableWebhook):
            outcome, level = "unreadable", logging.ERROR
            fields["reason"] = webhook.reason
            event_id = await self._publisher.publish_unreadable(
                body, event_type=webhook.event_type, reason=webhook.reason, traceparent=trace
            )
        else:
            outcome, level = "accepted", logging.INFO
            fields["order_id"] = webhook.order_id
            event_id = await self._publisher.publish_event(
                event_type=webhook.event_type,
                order_id=webhook.order_id,
                occurred_at=webhook.occurred_at,
                source_key=webhook.source_key,
                payload=webhook.payload,
                traceparent=trace,
            )
        self._step(Step.WEBHOOK_PUBLISHED)
        fields["event_id"] = event_id
        answer = b'{"outcome":"%b","event_id":"%b"}' % (outcome.encode(), event_id.encode())
        return Receipt(outcome, ready_answer(request, answer), level, fields)


_IGNORED: Final = b'{"outcome":"ignored"}'
_LINES: Final = {
    "accepted": "webhook.accepted",
    "ignored": "webhook.ignored",
    "unreadable": "webhook.unreadable",
}
