"""A Splio over real sockets that answers as scripted, request by request."""

import asyncio
import base64
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

Action = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came in; `connection` tells one connection from another."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int


@dataclass(slots=True)
class SplioServer:
    """
    What came in, and what is answered next.

    `script` answers requests other than authentication, in order; when it is empty orders are
    echoed, credits accepted, creations echoed. `authentications` does the same for tokens.
    """

    url: str = ""
    received: list[Received] = field(default_factory=list)
    script: deque[Action] = field(default_factory=deque)
    authentications: deque[Action] = field(default_factory=deque)
    tokens: int = 0
    _connections: dict[int, int] = field(default_factory=dict)
    _transports: set[asyncio.Transport] = field(default_factory=set)

    def then(self, *actions: Action) -> None:
        """Answer the next requests with `actions`."""
        self.script.extend(actions)

    def paths(self) -> list[str]:
        """Method and path of everything received, authentication excepted."""
        return [f"{r.method} {r.path}" for r in self.received if r.path != "/authenticate"]

    def drop_connections(self) -> None:
        """Close every connection, as a server does with idle ones."""
        for transport in self._transports:
            transport.close()
        self._transports.clear()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        connection = self._connections.setdefault(id(request.protocol), len(self._connections))
        if request.transport is not None:
            self._transports.add(request.transport)
        path = request.raw_path
        self.received.append(
            Received(request.method, path, dict(request.headers), body, connection)
        )
        if path == "/authenticate":
            action = self.authentications.popleft() if self.authentications else self._token
        else:
            action = self.script.popleft() if self.script else _succeed
        return await action(request)

    async def _token(self, request: web.BaseRequest) -> web.StreamResponse:
        self.tokens += 1
        return web.json_response({"token": jwt({"jti": self.tokens, "iat": 0, "exp": 3600})})


def jwt(claims: Mapping[str, Any]) -> str:
    """A token with these claims and no signature worth the name."""
    parts = ({"alg": "RS256"}, claims, "signature")
    return ".".join(
        base64.urlsafe_b64encode(orjson.dumps(part)).decode().rstrip("=") for part in parts
    )


def reply(status: int, body: Any = None, headers: Mapping[str, str] | None = None) -> Action:
    """Answer with JSON, or with `body` as it is when it is bytes."""

    async def act(request: web.BaseRequest) -> web.StreamResponse:
        if body is None:
            return web.Response(status=status, headers=headers)
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        kind = "text/html" if raw.startswith(b"<") else "application/json"
        return web.Response(status=status, body=raw, headers=headers, content_type=kind)

    return act


def problem(status: int, key: str, slug: str, description: str) -> Action:
    """A refusal in the usual shape."""
    entry = {"error_key": key, "error": slug, "error_description": description}
    return reply(status, {"status": status, "errors": [entry]})


async def disconnect(request: web.BaseRequest) -> web.StreamResponse:
    """Close the connection without an answer."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def reset(request: web.BaseRequest) -> web.StreamResponse:
    """Reset the connection."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def hang(released: asyncio.Event) -> Action:
    """Answer well, but only once `released` is set."""

    async def act(request: web.BaseRequest) -> web.StreamResponse:
        await released.wait()
        return await _succeed(request)

    return act


def drip(body: bytes, *, until: asyncio.Event) -> Action:
    """Send all but the last byte of `body`, and that one once `until` is set."""

    async def act(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(status=201)
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[:-1])
        await until.wait()
        await response.write(body[-1:])
        return response

    return act


def cut_short(body: bytes) -> Action:
    """Announce more than is sent, then close."""

    async def act(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(status=201)
        response.content_length = len(body) + 10
        await response.prepare(request)
        await response.write(body)
        assert request.transport is not None
        request.transport.close()
        return response

    return act


@asynccontextmanager
async def open_splio_server() -> AsyncIterator[SplioServer]:
    """A server on a free port of loopback; what it still hangs on is dropped at the end."""
    server = SplioServer()
    runner = web.ServerRunner(web.Server(server.handle), shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = site.name
    port = runner.addresses[0][1]
    server.url = f"http://127.0.0.1:{port}"
    try:
        yield server
    finally:
        await runner.cleanup()


def closed_port() -> int:
    """A port of loopback on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def _succeed(request: web.BaseRequest) -> web.StreamResponse:
    """What Splio answers when all is well."""
    path = request.raw_path
    if path.endswith("/credit"):
        return web.Response(status=202)
    body = await request.read()
    if request.method == "PATCH":
        changed = orjson.loads(body) | {"external_id": path.rsplit("/", 1)[1]}
        return web.json_response(changed)
    return web.Response(status=201, body=body or b"{}", content_type="application/json")
