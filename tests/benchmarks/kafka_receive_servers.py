"""
The servers that `bench_kafka_receive` compares, each a process of its own.

`bare` awaits aiokafka's acknowledgement of the raw body and parses nothing. `ours` is the service
in the role `receive`, writing its log lines; `ours-spool` is the same with a path for its spool.
"""

import asyncio
import sys
from pathlib import Path

import orjson
from aiohttp import web
from aiokafka import AIOKafkaProducer

from service.runtime import open_runtime
from service.settings import load_settings
from service.stores import Role
from service.telemetry.logs import configure_logs
from tests.benchmarks.receive_servers import PASSWORD, USER, announce, serve_application
from tests.benchmarks.surroundings import environment

_NO_SPLIO = "http://127.0.0.1:1"


async def serve_bare(servers: str, topic: str) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=servers, acks="all", enable_idempotence=True, linger_ms=0
    )
    await producer.start()

    async def answer(request: web.Request) -> web.Response:
        await producer.send_and_wait(topic, await request.read())
        return web.json_response({"outcome": "accepted"})

    await serve_application(answer)


async def serve_ours(folder: Path, place: dict[str, str], *, spool: bool) -> None:
    place["RELAY_WEBHOOK_CREDENTIALS"] = f"{USER}:{PASSWORD}"
    if spool:
        place["RELAY_SPOOL_PATH"] = str(folder / "spool.db")
    settings = load_settings(environment(folder, _NO_SPLIO, place), sandbox=True)
    async with open_runtime(settings, role=Role.RECEIVE) as runtime:
        running = asyncio.create_task(runtime.run(asyncio.Event()))
        await asyncio.sleep(0)  # so that it is ready
        announce(runtime.listeners.public.port if runtime.listeners.public else 0)
        await running


def main() -> None:
    name, folder, place = sys.argv[1], Path(sys.argv[2]), orjson.loads(sys.argv[3])
    with (folder / "log.txt").open("w") as stream:
        configure_logs(log_format="json", level="INFO", stream=stream)
        if name == "bare":
            servers = place["RELAY_LOG_URL"].removeprefix("kafka://")
            asyncio.run(serve_bare(servers, f"{place['RELAY_TOPIC_PREFIX']}scayle.orders.v1"))
        else:
            asyncio.run(serve_ours(folder, place, spool=name == "ours-spool"))


if __name__ == "__main__":
    main()
