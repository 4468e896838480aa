"""
The three servers that `bench_receive` compares, each a process of its own.

`bare` reads the body and answers. `plain` is the shortest program that may answer 200: it commits
the raw body to SQLite in groups and parses nothing. `ours` is the service's own door on its own
log, writing its log lines; `ours-quiet` writes none.
"""

import asyncio
import logging
import sqlite3
import sys
import threading
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry

from producers.events import EventPublisher
from service.domain.clock import SteadyClock
from service.eventlog.sqlite import open_sqlite_log
from service.telemetry.logs import configure_logs
from service.telemetry.metrics import Metrics
from service.web.authentication import BasicAuthentication, LoginThrottle
from service.web.listeners import Listener, ListenerConfig
from service.web.public_door import public_router
from service.web.webhooks import WebhookDoor

USER, PASSWORD = "scayle", "benchmark"
AUTHORIZATION = "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()
PATH = "/webhooks/scayle"


class PlainCommitter:
    """One thread that commits what waits: what a careful author of a small script would write."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = threading.Condition()
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("CREATE TABLE bodies (id INTEGER PRIMARY KEY, body BLOB)")
        threading.Thread(target=self._run, daemon=True).start()

    def append(self, body: bytes) -> asyncio.Future[None]:
        """The future ends when `body` is on disk."""
        future: asyncio.Future[None] = self._loop.create_future()
        with self._wake:
            self._waiting.append((body, future))
            self._wake.notify()
        return future

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting:
                    self._wake.wait()
                batch, self._waiting = self._waiting, []
            self._database.execute("BEGIN")
            self._database.executemany(
                "INSERT INTO bodies (body) VALUES (?)", [(body,) for body, _ in batch]
            )
            self._database.execute("COMMIT")
            self._loop.call_soon_threadsafe(self._resolve, [future for _, future in batch])

    @staticmethod
    def _resolve(futures: list[asyncio.Future[None]]) -> None:
        for future in futures:
            if not future.done():
                future.set_result(None)


async def serve_application(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> None:
    """An aiohttp application as its tutorial builds it, without access log."""
    application = web.Application()
    application.router.add_post(PATH, handler)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    announce(runner.addresses[0][1])
    await asyncio.Event().wait()


async def serve_bare() -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"outcome": "accepted"})

    await serve_application(answer)


async def serve_plain(folder: Path) -> None:
    committer = PlainCommitter(folder / "plain.db")

    async def answer(request: web.Request) -> web.Response:
        await committer.append(await request.read())
        return web.json_response({"outcome": "accepted"})

    await serve_application(answer)


async def serve_ours(folder: Path, *, logs: bool) -> None:
    sys.setswitchinterval(0.0005)  # as the service's runtime sets it
    with (folder / "ours.log").open("w") as stream:
        configure_logs(log_format="json", level="INFO" if logs else "WARNING", stream=stream)
        clock = SteadyClock()
        metrics = Metrics(CollectorRegistry())
        async with open_sqlite_log(folder / "ours.db", metrics=metrics, clock=clock) as log:
            door = WebhookDoor(
                EventPublisher(log, metrics=metrics, tenant="main", clock=clock),
                authentication=BasicAuthentication(
                    [(USER, PASSWORD)], realm="webhooks", throttle=LoginThrottle(clock)
                ),
                metrics=metrics,
                clock=clock,
                accepting=lambda: True,
            )
            listener = Listener(
                ListenerConfig("public", "127.0.0.1", 0, "RELAY_HTTP_PORT"), public_router(door)
            )
            await listener.start()
            announce(listener.port)
            await asyncio.Event().wait()


def announce(port: int) -> None:
    """Tell the benchmark where to send."""
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    logging.getLogger().setLevel(logging.WARNING)
    match name:
        case "bare":
            asyncio.run(serve_bare())
        case "plain":
            asyncio.run(serve_plain(folder))
        case "ours":
            asyncio.run(serve_ours(folder, logs=True))
        case "ours-quiet":
            asyncio.run(serve_ours(folder, logs=False))


if __name__ == "__main__":
    main()
