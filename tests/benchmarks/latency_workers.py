"""
The processes that `bench_latency` compares: webhook in, both effects of one order at Splio.

Each prints its address, then for every event the monotonic time at which both effects were
applied. `ours` is the service: applied is what its ledger has recorded. `naive` is a script that
makes the two calls inside the webhook request and records nothing; its requests are rendered
before, so that it parses and maps nothing either. `naive-kafka` is such a script that produces to
Kafka inside the request and makes the calls for what it consumes.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import orjson
from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from service.domain.ports import Step
from service.runtime import open_runtime
from service.settings import Settings
from service.telemetry.logs import configure_logs
from tests.benchmarks.events import JSON, Requests, log_in, orders, rendered, settings_of

PATH = "/webhooks/scayle"
_EFFECTS = 2


def say(word: str) -> None:
    """Tell the benchmark."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def ours(settings: Settings) -> None:
    """The service until it is killed."""
    recorded = 0

    def note(step: Step) -> None:
        nonlocal recorded
        if step is Step.OUTCOME_RECORDED:
            recorded += 1
            if recorded % _EFFECTS == 0:
                say(str(time.monotonic()))

    async with open_runtime(settings, step=note) as runtime:
        say(runtime.listeners.public_url)
        await runtime.run(asyncio.Event())


async def naive(splio_url: str, first: int, count: int) -> None:
    """The script until it is killed."""
    requests = {each.order_id: each for each in rendered(orders(count, first=first))}
    async with aiohttp.ClientSession(splio_url) as session:
        await log_in(session)

        async def take(request: web.Request) -> web.Response:
            each = requests[str(orjson.loads(await request.read())["payload"]["id"])]
            await send(session, each)
            say(str(time.monotonic()))
            return web.json_response({"outcome": "accepted"})

        await announce(take)
        await asyncio.Event().wait()


async def naive_kafka(settings: Settings, splio_url: str, first: int, count: int) -> None:
    """The script with Kafka between webhook and calls, until it is killed."""
    requests = {each.order_id.encode(): each for each in rendered(orders(count, first=first))}
    servers = settings.log_url.removeprefix("kafka://")
    topic = f"{settings.topic_prefix}scayle.orders.v1"
    async with (
        aiohttp.ClientSession(splio_url) as session,
        AIOKafkaProducer(
            bootstrap_servers=servers, acks="all", enable_idempotence=True, linger_ms=0
        ) as producer,
        AIOKafkaConsumer(
            topic,
            bootstrap_servers=servers,
            group_id=f"{settings.topic_prefix}naive",
            enable_auto_commit=True,
            auto_offset_reset="earliest",
        ) as consumer,
    ):
        await log_in(session)

        async def take(request: web.Request) -> web.Response:
            body = await request.read()
            key = str(orjson.loads(body)["payload"]["id"]).encode()
            await producer.send_and_wait(topic, body, key=key)
            return web.json_response({"outcome": "accepted"})

        await announce(take)
        async for row in consumer:
            await send(session, requests[row.key])
            say(str(time.monotonic()))


async def send(session: aiohttp.ClientSession, each: Requests) -> None:
    """Both requests of one event, one after the other."""
    for wanted in (each.order, each.credit):
        async with session.post(wanted.path, data=wanted.body, headers=JSON) as reply:
            await reply.read()
            assert reply.status in (201, 202), reply.status


async def announce(handler: Callable[[web.Request], Awaitable[web.Response]]) -> None:
    """Serve webhooks and tell where."""
    application = web.Application()
    application.router.add_post(PATH, handler)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    say(f"http://127.0.0.1:{runner.addresses[0][1]}")


def main() -> None:
    name, folder, splio_url, first, count, place = sys.argv[1:]
    settings = settings_of(Path(folder), splio_url, orjson.loads(place))
    with (Path(folder) / "log.txt").open("w") as stream:
        configure_logs(log_format="json", level="INFO", stream=stream)
        match name:
            case "ours":
                asyncio.run(ours(settings))
            case "naive-kafka":
                asyncio.run(naive_kafka(settings, splio_url, int(first), int(count)))
            case _:
                asyncio.run(naive(splio_url, int(first), int(count)))


if __name__ == "__main__":
    main()
