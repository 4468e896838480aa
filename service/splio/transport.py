"""One HTTP request to Splio: written late, given up in time, read within a size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_writer import StreamWriter
from yarl import URL

from service.domain.clock import Clock
from service.domain.ports import Step, StepHook, no_step
from service.splio.config import SplioConfig
from service.splio.limiter import GateClosedError, Grant, Limiter

# aiohttp rounds long timeouts up to whole seconds; a deadline is a deadline.
_NEVER_ROUND_S: Final = 1e9
_HEADERS: Final = {
    "Accept": "application/json",
    # A reply that is not compressed cannot unfold into a large one.
    "Accept-Encoding": "identity",
    "User-Agent": "loyalty-relay",
}


class NotBegunError(Exception):
    """Not one byte of the request was written; `reason` says why."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class NoAnswerError(Exception):
    """The request was begun and no whole answer came; `reason` says why."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read to its end; `sent_at_s` is when the request was about to be written."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent_at_s: float


class GuardedBody(aiohttp.BytesPayload):
    """
    A request body that passes the gate and the deadline with the connection already in hand.

    aiohttp 3.14 keeps the headers back until the body's first bytes, and calls this from the
    task that writes both: between the checks here and the write nothing else can run. Its trace
    hooks are no later (`on_request_headers_sent` and `on_request_chunk_sent` both fire before
    the bytes they name are written) and cannot wait for the gate without slowing every request.
    An exception here makes aiohttp close the connection, on which nothing was written.

    `begun` tells for certain whether a byte may have left.
    """

    def __init__(
        self,
        body: bytes,
        *,
        limiter: Limiter,
        grant: Grant,
        deadline_s: float,
        clock: Clock,
        step: StepHook,
    ) -> None:
        super().__init__(body, content_type="application/json")
        self.begun = False
        self.begun_at_s = 0.0
        self.is_late = False
        self._given_up = False
        self._limiter = limiter
        self._grant = grant
        self._deadline_s = deadline_s
        self._clock = clock
        self._step = step

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        try:
            await self._limiter.pass_gate(self._grant, deadline_s=self._deadline_s)
        except GateClosedError:
            self.is_late = True
            raise
        # A connection that the server has closed takes nothing: that is no doubt, but a retry.
        transport = writer.transport if isinstance(writer, StreamWriter) else None
        if self._given_up or transport is None or transport.is_closing():
            raise NotBegunError("not_connected")
        self.begun = True
        self.begun_at_s = self._clock.monotonic_s()
        self._step(Step.REQUEST_STARTED)
        await super().write_with_length(writer, content_length)
        self._step(Step.REQUEST_SENT)

    def give_up(self) -> None:
        """The request is over: nothing may be written from now on."""
        self._given_up = True


class Transport:
    """
    Sends requests over one session: TLS verified, no redirects, no cookies, no proxies.

    POST and PATCH go out once; a GET may be repeated by aiohttp on a stale connection.
    """

    def __init__(self, config: SplioConfig, limiter: Limiter, clock: Clock) -> None:
        self._base = config.url.rstrip("/")
        self._limiter = limiter
        self._clock = clock
        self._connect_timeout_s = config.connect_timeout_s
        self._reply_limit = config.reply_limit_bytes
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=config.connections, keepalive_timeout=config.keep_alive_s
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
        )

    async def close(self) -> None:
        await self._session.close()

    async def send(
        self,
        method: str,
        path: str,
        body: bytes,
        *,
        grant: Grant,
        deadline_s: float,
        headers: Mapping[str, str],
        step: StepHook = no_step,
    ) -> Reply:
        """
        Send a request with a JSON body and read the whole reply.

        Args:
            path: percent-encoded.
            deadline_s: monotonic; not begun by then it is not begun, begun it is given up then.
        Raises: NotBegunError, NoAnswerError.
        """
        guard = GuardedBody(
            body,
            limiter=self._limiter,
            grant=grant,
            deadline_s=deadline_s,
            clock=self._clock,
            step=step,
        )
        try:
            status, reply_headers, reply = await self._exchange(
                method, path, guard, deadline_s, headers
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            name = type(error).__name__
            if guard.begun:
                reason = "timed_out" if isinstance(error, TimeoutError) else "disconnected"
                raise NoAnswerError(reason, name) from error
            if guard.is_late or self._clock.monotonic_s() >= deadline_s:
                raise NotBegunError("deadline_passed", name) from error
            raise NotBegunError("not_connected", name) from error
        finally:
            guard.give_up()
        step(Step.REPLY_RECEIVED)
        return Reply(status, reply_headers, reply, guard.begun_at_s)

    async def read(
        self, path: str, *, grant: Grant, deadline_s: float, headers: Mapping[str, str]
    ) -> Reply:
        """Send a GET and read the whole reply; arguments and errors as for `send`."""
        try:
            await self._limiter.pass_gate(grant, deadline_s=deadline_s)
        except GateClosedError as error:
            raise NotBegunError("deadline_passed") from error
        sent_at_s = self._clock.monotonic_s()
        try:
            status, reply_headers, reply = await self._exchange(
                "GET", path, None, deadline_s, headers
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotBegunError("not_connected", type(error).__name__) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = "timed_out" if isinstance(error, TimeoutError) else "disconnected"
            raise NoAnswerError(reason, type(error).__name__) from error
        return Reply(status, reply_headers, reply, sent_at_s)

    async def _exchange(
        self,
        method: str,
        path: str,
        body: GuardedBody | None,
        deadline_s: float,
        headers: Mapping[str, str],
    ) -> tuple[int, Mapping[str, str], bytes]:
        left_s = deadline_s - self._clock.monotonic_s()
        if left_s <= 0:
            raise NotBegunError("deadline_passed")
        timeout = aiohttp.ClientTimeout(
            total=left_s, connect=self._connect_timeout_s, ceil_threshold=_NEVER_ROUND_S
        )
        async with self._session.request(
            method,
            URL(self._base + path, encoded=True),
            data=body,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
        ) as response:
            return response.status, response.headers, await self._read_within_limit(response)

    async def _read_within_limit(self, response: aiohttp.ClientResponse) -> bytes:
        """
        The whole body of `response`.

        Raises: NoAnswerError once it is larger than allowed; the rest is not read.
        """
        content = response.content
        chunk = await content.readany()
        if content.at_eof() and len(chunk) <= self._reply_limit:
            return chunk
        whole = bytearray(chunk)
        while len(whole) <= self._reply_limit:
            chunk = await content.readany()
            if not chunk:
                return bytes(whole)
            whole += chunk
        response.close()
        raise NoAnswerError("unreadable_reply", "too large")
