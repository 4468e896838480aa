"""Listeners: sockets with bounded connections and time limits in front of a router."""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from service.domain.errors import StartupError
from service.web.answers import SERVER, problem, problem_document

Answerer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_LINGER_S: Final = 2.0  # how long the rest of a refused body is read before the connection ends
_BACKLOG: Final = 512
_HANDSHAKE_S: Final = 10.0
_HEAD_LIMIT: Final = 8190  # bytes of a request line or of one header, as elsewhere

logger = logging.getLogger("relay.web")


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    """
    Where to listen and what to bear.

    Args:
        name: for messages, `public` or `operations`.
        port: 0 takes any that is free.
        setting: the variable that names the port, for messages.
        head_timeout_s: from the first byte of a request to the end of its headers, and from
            the start of a connection to the first.
        idle_timeout_s: how long a connection may be quiet between requests.
    """

    name: str
    host: str
    port: int
    setting: str
    max_connections: int = 512
    head_timeout_s: float = 10.0
    idle_timeout_s: float = 75.0
    tls: ssl.SSLContext | None = None


def load_tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """
    The server side of TLS, version 1.2 or newer.

    Raises: StartupError when the files cannot be used.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # SSLError is one
        raise StartupError(
            "tls_files", f"certificate {certificate} with key {key}: {error}"
        ) from error
    return context


class Listener:
    """
    One listening address, its connections and what they may cost.

    At the bound, the connection that has been quiet longest makes room; one that was never
    served goes first. When all are at work, a new one is answered 503 and closed.
    """

    def __init__(self, config: ListenerConfig, answer: Answerer) -> None:
        self._config = config
        self._answer = answer
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._http: _HttpServer | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that is listened on, once started."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def idle_timeout_s(self) -> float:
        """How long a connection may be quiet between requests."""
        return self._config.idle_timeout_s

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def start(self) -> None:
        """
        Listen.

        Raises: StartupError when the address cannot be had, saying why.
        """
        config = self._config
        loop = asyncio.get_running_loop()
        self._http = _HttpServer(self, self._serve)
        try:
            self._server = await loop.create_server(
                self._http,
                config.host,
                config.port,
                ssl=config.tls,
                ssl_handshake_timeout=_HANDSHAKE_S if config.tls else None,
                backlog=_BACKLOG,
            )
        except (OSError, UnicodeError) as error:
            raise StartupError("cannot_listen", self._explain(error)) from error
        self._sweeper = loop.create_task(self._sweep(), name=f"{config.name}-listener-sweeper")

    async def stop(self, *, grace_s: float) -> None:
        """Take no more connections, let requests in hand finish for `grace_s`, close the rest."""
        if self._server is None or self._http is None or self._sweeper is None:
            return
        self._server.close()
        self._sweeper.cancel()
        with suppress(asyncio.CancelledError):
            await self._sweeper
        self._http.pre_shutdown()
        await self._http.shutdown(grace_s)
        await self._server.wait_closed()

    def admit(self, connection: "Connection", transport: asyncio.Transport) -> None:
        """Count a new connection, at the bound by closing another or the new one itself."""
        if len(self._connections) >= self._config.max_connections:
            quiet = [other for other in self._connections if not other.is_busy]
            if not quiet:
                transport.write(_FULL)
                connection.force_close()
                return
            victim = min(quiet, key=lambda other: (other.was_served, other.quiet_since))
            self._connections.discard(victim)
            victim.force_close()
        self._connections.add(connection)

    def forget(self, connection: "Connection") -> None:
        """Count a connection no more."""
        self._connections.discard(connection)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.is_busy = True
        try:
            return await self._answer(request)
        finally:
            connection.end_request()

    async def _sweep(self) -> None:
        """Close connections that take too long for a request's head or are idle too long."""
        config = self._config
        loop = asyncio.get_running_loop()
        pause_s = min(config.head_timeout_s, config.idle_timeout_s, 4.0) / 4
        while True:
            await asyncio.sleep(pause_s)
            now_s = loop.time()
            for connection in [other for other in self._connections if not other.is_busy]:
                begun_s = connection.head_since
                if begun_s is not None and now_s - begun_s > config.head_timeout_s:
                    if connection.transport is not None and connection.has_begun:
                        connection.transport.write(_SLOW_HEAD)
                    connection.force_close()
                elif now_s - connection.quiet_since > config.idle_timeout_s:
                    connection.force_close()

    def _explain(self, error: Exception) -> str:
        config = self._config
        what = f"the {config.name} listener cannot use {config.host}:{config.port}"
        code = error.errno if isinstance(error, OSError) else None
        if code == errno.EADDRINUSE:
            return (
                f"{what}: another program listens there; stop it or set {config.setting} "
                "to another port"
            )
        if code == errno.EACCES:
            return (
                f"{what}: ports below 1024 need a privilege; set {config.setting} to a higher one"
            )
        if code == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror | UnicodeError):
            return f"{what}: this machine does not have that address"
        return f"{what}: {error}"


class Connection(web.RequestHandler):
    """One connection: aiohttp's protocol with what the bounds need, and problem documents."""

    __slots__ = ("_listener", "has_begun", "head_since", "is_busy", "quiet_since", "was_served")

    def __init__(self, manager: web.Server, listener: Listener, **options: Any) -> None:
        super().__init__(manager, **options)
        self._listener = listener
        self.is_busy = False  # a request is being answered
        self.was_served = False
        self.has_begun = False  # a part of a request's head has come
        self.quiet_since = self._loop.time()
        self.head_since: float | None = self.quiet_since

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        self._listener.admit(self, transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._listener.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.has_begun and not self.is_busy:
            self.has_begun = True
            self.head_since = self._loop.time()
        super().data_received(data)

    def end_request(self) -> None:
        """The handler is done; the next request may come."""
        self.is_busy = False
        self.was_served = True
        self.has_begun = False
        self.head_since = None
        self.quiet_since = self._loop.time()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp answers when the request cannot be parsed, or a handler failed."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        if status >= 500:  # noqa: PLR2004
            logger.error(
                "request.failed",
                exc_info=exc,
                extra={"error_type": type(exc).__name__, "worker": "web"},
            )
            return problem(500, "failed", "The request failed here", close=True)
        if isinstance(exc, LineTooLong):
            return problem(
                431, "headers-too-large", "The request line or a header is too long", close=True
            )
        return problem(400, "bad-request", "This is not a valid HTTP request", close=True)


class _HttpServer(web.Server):
    """Makes our connections; one object for all connections of a listener."""

    def __init__(self, listener: Listener, handler: Answerer) -> None:
        super().__init__(handler)
        self._listener = listener

    def __call__(self) -> web.RequestHandler:
        return Connection(
            self,
            self._listener,
            loop=self._loop,
            access_log=None,
            auto_decompress=False,
            # The listener's sweeper is earlier; zero would end a connection after each request.
            keepalive_timeout=2 * self._listener.idle_timeout_s,
            lingering_time=_LINGER_S,
            max_line_size=_HEAD_LIMIT,
            max_field_size=_HEAD_LIMIT,
            logger=logger,
        )


def _raw_answer(status_line: str, body: bytes, *headers: str) -> bytes:
    """An answer outside any request, after which the connection ends."""
    head = "\r\n".join(
        (
            f"HTTP/1.1 {status_line}",
            "Content-Type: application/problem+json",
            f"Content-Length: {len(body)}",
            "Connection: close",
            f"Server: {SERVER}",
            *headers,
            "\r\n",
        )
    )
    return head.encode() + body


_FULL: Final = _raw_answer(
    "503 Service Unavailable",
    problem_document(503, "too-many-connections", "Too many connections are open"),
    "Retry-After: 1",
)
_SLOW_HEAD: Final = _raw_answer(
    "408 Request Timeout",
    problem_document(408, "too-slow", "The request's headers took too long"),
)
