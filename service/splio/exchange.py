"""Exchanges with Splio: permit, token, request and reply, told to limiter, breaker and metrics."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from service.domain.clock import Clock
from service.domain.effects import Lane, RenderedRequest
from service.domain.errors import RetryableError
from service.domain.ports import Answer, Operation, Permit, StepHook, no_step
from service.splio.answers import OK_STATUSES, classify, read_object, unanswered
from service.splio.breaker import Breaker
from service.splio.config import SplioConfig
from service.splio.errors import parse_errors
from service.splio.limiter import Grant, Limiter
from service.splio.schedule import Schedule
from service.splio.telemetry import ClientMetrics
from service.splio.token import TokenSource
from service.splio.transport import NoAnswerError, NotBegunError, Reply, Transport

_log = logging.getLogger(__name__)

_UNAUTHORIZED: Final = 401
_TOO_MANY_REQUESTS: Final = 429
_SERVER_ERROR: Final = 500
_AUTHENTICATE_PATH: Final = "/authenticate"
_DIGITS_LIMIT: Final = 9  # of a number in a header; a longer one is none of a rate limit
_RESET_UNKNOWN_S: Final = 1.0  # of a 429 that does not say how long; the documented window


@dataclass(slots=True)
class SplioPermit:
    """A place in a lane (`Permit`), perhaps as the probe of an open breaker."""

    lane: Lane
    grant: Grant
    breaker: Breaker
    is_probe: bool
    is_reserved: bool = False

    def hand_back(self) -> None:
        self.grant.hand_back()
        if self.is_probe:
            self.is_probe = False
            self.breaker.give_up_probe()


class Exchange:
    """Sends requests to one universe and returns the replies, whatever they say."""

    def __init__(
        self,
        config: SplioConfig,
        *,
        clock: Clock,
        metrics: ClientMetrics,
        schedule: Schedule | None,
        step: StepHook,
    ) -> None:
        self._config = config
        self._step = step
        self._clock = clock
        self._metrics = metrics
        self._limiter = Limiter(
            config.limits,
            clock,
            schedule=schedule,
            reserved=(Lane.OTHER,) if config.reserves_checkout else (),
            waits=metrics.limiter_waits,
        )
        self._breaker = Breaker(
            clock,
            failures=config.breaker_failures,
            first_pause_s=config.breaker_first_pause_s,
            longest_pause_s=config.breaker_longest_pause_s,
            on_change=self._breaker_changed,
        )
        self._transport = Transport(config, self._limiter, clock)
        self._token = TokenSource(self._authenticate, clock, max_age_s=config.token_max_age_s)

    async def close(self) -> None:
        await self._token.close()
        await self._transport.close()

    def own_deadline_s(self) -> float:
        """The deadline of a request, begun now, that carries none of its own."""
        return self._clock.monotonic_s() + self._config.request_timeout_s

    async def permit(self, lane: Lane, *, reserved: bool = False) -> SplioPermit:
        """
        Wait until the limiter has room in `lane` and the breaker lets requests through.

        Args:
            reserved: of the lane's reserved part, if it has one: before all others.
        """
        while True:
            is_probe = await self._breaker.wait()
            try:
                grant = await self._limiter.grant(lane, reserved=reserved)
            except asyncio.CancelledError:
                if is_probe:
                    self._breaker.give_up_probe()
                raise
            if is_probe or not self._breaker.is_open:
                return SplioPermit(lane, grant, self._breaker, is_probe, reserved)
            grant.hand_back()  # it opened while we waited

    async def post(
        self,
        operation: Operation,
        request: RenderedRequest,
        *,
        permit: Permit,
        deadline_s: float,
        traceparent: str,
    ) -> Reply:
        """Post the stored request of an effect, as `send`."""
        return await self.send(
            operation,
            "POST",
            request.path,
            request.body,
            permit=permit,
            deadline_s=deadline_s,
            traceparent=traceparent,
            is_effect=True,
        )

    async def send(
        self,
        operation: Operation,
        method: str,
        path: str,
        body: bytes | None,
        *,
        permit: Permit,
        deadline_s: float,
        traceparent: str,
        is_effect: bool = False,
    ) -> Reply:
        """
        Send with the token; once more with a new one after a 401, as nothing took effect.

        Uses up `permit` or hands it back. The labelled steps are those of effects (`is_effect`).
        Raises:
            RetryableError: nothing was sent (`not_connected`, `deadline_passed`,
                `unauthorized`), or what was sent may be repeated (`no_answer`).
            LanePausedError: the key is refused (`authentication_failed`).
            InDoubtError: no whole answer came.
        """
        if not isinstance(permit, SplioPermit):
            raise TypeError("a permit of another client")
        try:
            authorization = self._token.current()
            if authorization is None:
                authorization = await self._first_token(permit, deadline_s)
            headers = {"Authorization": authorization}
            if traceparent:
                headers["traceparent"] = traceparent
            reply = await self._exchange(
                operation,
                method,
                path,
                body,
                permit=permit,
                deadline_s=deadline_s,
                headers=headers,
                is_effect=is_effect,
            )
        finally:
            permit.hand_back()
        if reply.status != _UNAUTHORIZED:
            return reply
        self._token.discard(authorization)
        headers["Authorization"] = await self._fetch_token(deadline_s)
        permit = await self._second_permit(permit, deadline_s)
        try:
            return await self._exchange(
                operation,
                method,
                path,
                body,
                permit=permit,
                deadline_s=deadline_s,
                headers=headers,
                is_effect=is_effect,
            )
        finally:
            permit.hand_back()

    async def _exchange(
        self,
        operation: Operation,
        method: str,
        path: str,
        body: bytes | None,
        *,
        permit: SplioPermit,
        deadline_s: float,
        headers: Mapping[str, str],
        is_effect: bool = False,
    ) -> Reply:
        """One request, counted, with what it shows of Splio told to breaker and limiter."""
        began_at_s = self._clock.monotonic_s()
        grant = permit.grant
        try:
            if body is None:
                reply = await self._transport.read(
                    path, grant=grant, deadline_s=deadline_s, headers=headers
                )
            else:
                reply = await self._transport.send(
                    method,
                    path,
                    body,
                    grant=grant,
                    deadline_s=deadline_s,
                    headers=headers,
                    step=self._step if is_effect else no_step,
                )
        except NotBegunError as error:
            if error.reason == "not_connected":
                self._metrics.unanswered(operation, self._clock.monotonic_s() - began_at_s)
                self._failed(permit)
            raise RetryableError(error.reason, error.detail) from error
        except NoAnswerError as error:
            self._metrics.unanswered(operation, self._clock.monotonic_s() - began_at_s)
            self._failed(permit)
            raise unanswered(operation, error.reason, error.detail) from error
        self._metrics.answered(operation, reply.status, self._clock.monotonic_s() - began_at_s)
        if reply.status >= _SERVER_ERROR:
            self._failed(permit)
        else:
            permit.is_probe = False
            self._breaker.answered()
        await self._watch_limits(permit.lane, reply)
        return reply

    async def _watch_limits(self, lane: Lane, reply: Reply) -> None:
        if reply.status == _TOO_MANY_REQUESTS:
            await self._limiter.obey_reset(lane, seconds=_reset_s(reply))
        left = reply.headers.get("rateLimit-remaining")
        if left is None or not left.isdecimal() or len(left) > _DIGITS_LIMIT:
            return
        self._metrics.rate_left[lane].set(int(left))
        if await self._limiter.compare_left(lane, left=int(left), asked_at_s=reply.sent_at_s):
            _log.warning("limit.shared", extra={"lane": lane.value, "left": int(left)})

    async def _first_token(self, permit: SplioPermit, deadline_s: float) -> str:
        """A token before the request itself; without one the probe of an open breaker failed."""
        try:
            return await self._fetch_token(deadline_s)
        except RetryableError:
            # An answer, a 429 for one, has closed it.
            if permit.is_probe and self._breaker.is_open:
                self._failed(permit)
            raise

    async def _fetch_token(self, deadline_s: float) -> str:
        try:
            async with asyncio.timeout(deadline_s - self._clock.monotonic_s()):
                return await self._token.fetch()
        except TimeoutError as error:
            raise RetryableError("deadline_passed", "waited for a token") from error
        except RetryableError as error:
            if error.reason != "no_answer":
                raise
            raise RetryableError("unauthorized", error.detail, status=error.status) from error

    async def _second_permit(self, first: SplioPermit, deadline_s: float) -> SplioPermit:
        """For the repeat after a 401, which shows that the breaker is closed."""
        lane, reserved = first.lane, first.is_reserved
        try:
            async with asyncio.timeout(deadline_s - self._clock.monotonic_s()):
                grant = await self._limiter.grant(lane, reserved=reserved)
        except TimeoutError as error:
            raise RetryableError("deadline_passed", "waited for a permit") from error
        return SplioPermit(lane, grant, self._breaker, is_probe=False, is_reserved=reserved)

    async def _authenticate(self) -> str:
        """
        A new token. It passes the breaker: who asks for it has a permit already, and goes first
        in its lane, as the checkout may be among those who wait for it.

        Raises: LanePausedError `authentication_failed` when the key is refused.
        """
        operation = Operation.AUTHENTICATE
        grant = await self._limiter.grant(Lane.OTHER, reserved=True)
        permit = SplioPermit(Lane.OTHER, grant, self._breaker, is_probe=False)
        try:
            reply = await self._exchange(
                operation,
                "POST",
                _AUTHENTICATE_PATH,
                orjson.dumps({"api_key": self._config.api_key}),
                permit=permit,
                deadline_s=self.own_deadline_s(),
                headers={},
            )
        finally:
            permit.hand_back()
        if reply.status not in OK_STATUSES:
            refusal(operation, reply)
        token = read_object(operation, reply.status, reply.body).get("token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise unanswered(operation, "unreadable_reply", "no token", status=reply.status)
        return token

    def _failed(self, permit: SplioPermit) -> None:
        self._breaker.failed(is_probe=permit.is_probe)
        permit.is_probe = False

    def _breaker_changed(self, is_open: bool) -> None:
        self._metrics.breaker_open.set(is_open)
        if is_open:
            _log.warning("breaker.opened", extra={"retry_in_s": self._breaker.retry_in_s})
        else:
            _log.info("breaker.closed")


def refusal(operation: Operation, reply: Reply) -> Answer:
    """What a reply other than 2xx means; raises as `classify`."""
    return classify(
        operation,
        reply.status,
        parse_errors(reply.body),
        retry_after_s=_reset_s(reply) if reply.status == _TOO_MANY_REQUESTS else None,
    )


def _reset_s(reply: Reply) -> float:
    """Seconds until a limit resets; whole ones as documented, the window when not said."""
    text = reply.headers.get("rateLimit-reset") or reply.headers.get("Retry-After") or ""
    return float(text) if text.isdecimal() else _RESET_UNKNOWN_S
