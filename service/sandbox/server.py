"""The sandbox's HTTP server: limits, authentication, faults, then the operation itself."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import sqlite3
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import aiohttp
import orjson
from aiohttp import web

from service.sandbox.answers import (
    HTML,
    INVALID_JSON,
    METHOD_NOT_ALLOWED,
    NO_ROUTE,
    RATE_LIMITED,
    TOO_LARGE,
    UNAUTHENTICATED,
    Answer,
    Refused,
    answer_json,
    answer_problem,
)
from service.sandbox.control import PREFIX, answer_control
from service.sandbox.faults import FaultRule
from service.sandbox.limits import category_of
from service.sandbox.routes import AUTHENTICATE, PING, UNIQUE_KEY, UNKNOWN, Act, Match, find_route
from service.sandbox.state import State
from service.sandbox.universe import Call

_LOST = "lost"
_BACKLOG = 1024
# A handler that still waits (a delayed answer) is cancelled this long after the end began.
_CLOSE_S = 0.2
# SO_LINGER on with 0 seconds makes close() send RST.
_RESET = struct.pack("ii", 1, 0)
_GARBAGE = Answer(200, b"<html><body><h1>We will be right back</h1></body></html>", HTML)


class SplioServer:
    """Serves one `State` on one address; see `open_server`."""

    def __init__(self, state: State, host: str, port: int) -> None:
        self._state = state
        self._host = host
        self.port = port
        self._web = web.Server(self._handle, access_log=None)
        self._listener: asyncio.Server | None = None
        self._reopening: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        """Opens the port; port 0 becomes a free one, kept for later."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            self._web, self._host, self.port, backlog=_BACKLOG
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Ends what is in hand after a short while and closes the port."""
        if self._reopening is not None:
            self._reopening.cancel()
            await asyncio.gather(self._reopening, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        self._web.pre_shutdown()
        await self._web.shutdown(_CLOSE_S)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        segments = tuple(map(unquote, request.rel_url.raw_path.strip("/").split("/")))
        if segments[0] == PREFIX:
            return await self._control(request, segments[1:])
        state, now = self._state, time.monotonic()
        match = find_route(request.method, segments)
        operation = UNKNOWN if match.route is None else match.route.operation
        category = category_of(segments)
        state.peaks[category].count(now=now)
        if state.faults.outage(operation, now=now):
            return self._lose(request, operation, reset=True)
        verdict = state.limits.take(request.remote or "", category, now=now)
        if not verdict.allowed:
            state.rate_limited += 1
            return self._respond(operation, RATE_LIMITED, verdict.headers)
        rule = state.faults.take(operation, now=now)
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return self._respond(operation, TOO_LARGE, verdict.headers)
        except (ConnectionError, aiohttp.ClientPayloadError):
            return self._lose(request, operation)
        authorization = request.headers.get("Authorization")
        query = dict(request.rel_url.query)

        def act() -> Any:
            return self._act(match, authorization, query, body)

        if rule is None:
            return self._respond(operation, await act(), verdict.headers)
        return await self._fail(request, operation, rule, act, verdict.headers)

    async def _fail(
        self,
        request: web.BaseRequest,
        operation: str,
        rule: FaultRule,
        act: Callable[[], Any],
        headers: dict[str, str],
    ) -> web.StreamResponse:
        match rule.fault:
            case "reset":
                return self._lose(request, operation, reset=True)
            case "outage":
                if rule.refuse:
                    self._refuse_connections(rule.seconds)
                return self._lose(request, operation, reset=True)
            case "lost_request":
                return self._lose(request, operation)
            case "status":
                return self._respond(operation, _undocumented(rule.status), headers)
            case "429":
                told = {"rateLimit-remaining": "0", "rateLimit-reset": str(rule.retry_after)}
                return self._respond(operation, RATE_LIMITED, {**headers, **told})
            case "unauthorized":
                return self._respond(operation, UNAUTHENTICATED, headers)
            case "delay_before":
                await asyncio.sleep(rule.seconds)
        answer: Answer = await act()
        match rule.fault:
            case "delay":
                await asyncio.sleep(rule.seconds)
            case "lost_reply":
                return self._lose(request, operation)
            case "status_after":
                answer = _undocumented(rule.status)
            case "garbage":
                answer = _GARBAGE
            case "slow_drip":
                self._state.requests[operation, str(answer.status)] += 1
                return await _drip(request, answer, headers, rule.seconds)
        return self._respond(operation, answer, headers)

    async def _act(
        self, match: Match, authorization: str | None, query: dict[str, str], body: bytes
    ) -> Answer:
        state, route = self._state, match.route
        if route is not None and route.operation == AUTHENTICATE:
            return self._authenticate(body)
        if not state.tokens.verify(authorization, now=time.time()):
            return UNAUTHENTICATED
        if route is None:
            return METHOD_NOT_ALLOWED if match.path_exists else NO_ROUTE
        if route.operation == PING:
            return answer_json(200, {"user_id": 1})
        if route.operation == UNIQUE_KEY:
            return answer_json(200, {"unique_key": state.universe.unique_key})
        document: dict[str, Any] = {}
        if route.method in ("POST", "PATCH") and route.takes_body:
            parsed = _object(body)
            if parsed is None:
                return INVALID_JSON
            document = parsed
        return await self._operate(route.act, match.parts, query, document)

    async def _operate(
        self,
        act: Act | None,
        parts: tuple[str, ...],
        query: dict[str, str],
        document: dict[str, Any],
    ) -> Answer:
        if act is None:
            return NO_ROUTE
        operate, universe = act, self._state.universe

        def job(db: sqlite3.Connection) -> Answer:
            call = Call(db, universe, time.time(), parts, query, document)
            try:
                return operate(call)
            except Refused as refused:
                return refused.answer

        return await self._state.books.run(job)

    def _authenticate(self, body: bytes) -> Answer:
        document = _object(body)
        if document is None:
            return INVALID_JSON
        key = document.get("api_key")
        if key is None or key == "":
            return answer_problem(400, "api_key", "is_blank", "Api key is missing.")
        if key not in self._state.api_keys:
            text = "User authentication failed."
            return answer_problem(400, "username", "authentication.failed", text)
        lifetime_s = self._state.token_lifetime_s
        token = self._state.tokens.issue(now=time.time(), lifetime_s=lifetime_s)
        return answer_json(200, {"token": token})

    async def _control(
        self, request: web.BaseRequest, segments: tuple[str, ...]
    ) -> web.StreamResponse:
        if not _is_loopback(request.remote):
            return _response(NO_ROUTE, {})
        body = await request.read()
        return _response(await answer_control(self._state, request.method, segments, body), {})

    def _respond(
        self, operation: str, answer: Answer, headers: dict[str, str]
    ) -> web.StreamResponse:
        self._state.requests[operation, str(answer.status)] += 1
        return _response(answer, headers)

    def _lose(
        self, request: web.BaseRequest, operation: str, *, reset: bool = False
    ) -> web.StreamResponse:
        self._state.requests[operation, _LOST] += 1
        transport = request.transport
        if transport is not None:
            _abort(transport) if reset else transport.close()
        # aiohttp wants a response; with the connection closed it reaches nobody.
        return web.Response()

    def _refuse_connections(self, seconds: float) -> None:
        """Closes the port and every connection for a while; needs no port to end."""
        if self._listener is None or self._reopening is not None:
            return
        self._listener.close()
        self._listener = None
        for connection in self._web.connections:
            if connection.transport is not None:
                _abort(connection.transport)
        self._reopening = asyncio.create_task(self._reopen(seconds), name="sandbox-reopen")

    async def _reopen(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.listen()
        self._reopening = None


@asynccontextmanager
async def open_server(state: State, host: str, port: int) -> AsyncIterator[SplioServer]:
    """A listening server, closed at the end."""
    server = SplioServer(state, host, port)
    await server.listen()
    try:
        yield server
    finally:
        await server.close()


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _undocumented(status: int) -> Answer:
    return answer_json(status, {"code": f"SANDBOX-{status}", "detail": "a fault on demand"})


def _response(answer: Answer, headers: dict[str, str]) -> web.Response:
    content_type = answer.content_type if answer.body else None
    return web.Response(
        status=answer.status,
        body=answer.body or None,
        headers=headers,
        content_type=content_type,
        charset="utf-8" if content_type is not None and content_type.startswith("text/") else None,
    )


def _abort(transport: asyncio.BaseTransport) -> None:
    endpoint = transport.get_extra_info("socket")
    if endpoint is not None:
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()


async def _drip(
    request: web.BaseRequest, answer: Answer, headers: dict[str, str], seconds: float
) -> web.StreamResponse:
    """Sends the whole answer, its head included, in single bytes; then closes."""
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    data = "\r\n".join([*lines, "", ""]).encode() + answer.body
    loop = asyncio.get_running_loop()
    began = loop.time()
    for place in range(len(data)):
        transport = request.transport
        if transport is None or transport.is_closing():
            break
        transport.write(data[place : place + 1])
        await asyncio.sleep(max(0.0, began + seconds * (place + 1) / len(data) - loop.time()))
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def _is_loopback(address: str | None) -> bool:
    return address is not None and ipaddress.ip_address(address).is_loopback
