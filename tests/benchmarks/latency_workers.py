"""
The processes that `bench_latency` compares: webhook in, both effects of one order at Splio.

Each prints its address, then for every event the monotonic time at which both effects were
applied. `ours` is the service: applied is what its ledger has recorded. `naive` is a script that
makes the two calls inside the webhook request and records nothing; its requests are rendered
before, so that it parses and maps nothing either.
"""

import asyncio
import sys
import time
from pathlib import Path

import aiohttp
import orjson
from aiohttp import web

from service.domain.ports import Step
from service.runtime import open_runtime
from service.telemetry.logs import configure_logs
from tests.benchmarks.events import JSON, log_in, orders, rendered, settings_of

PATH = "/webhooks/scayle"
_EFFECTS = 2


def say(word: str) -> None:
    """Tell the benchmark."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def ours(folder: Path, splio_url: str) -> None:
    """The service until it is killed."""
    recorded = 0

    def note(step: Step) -> None:
        nonlocal recorded
        if step is Step.OUTCOME_RECORDED:
            recorded += 1
            if recorded % _EFFECTS == 0:
                say(str(time.monotonic()))

    async with open_runtime(settings_of(folder, splio_url), step=note) as runtime:
        say(runtime.listeners.public_url)
        await runtime.run(asyncio.Event())


async def naive(splio_url: str, first: int, count: int) -> None:
    """The script until it is killed."""
    requests = {each.order_id: each for each in rendered(orders(count, first=first))}
    async with aiohttp.ClientSession(splio_url) as session:
        await log_in(session)

        async def take(request: web.Request) -> web.Response:
            each = requests[str(orjson.loads(await request.read())["payload"]["id"])]
            for wanted in (each.order, each.credit):
                async with session.post(wanted.path, data=wanted.body, headers=JSON) as reply:
                    await reply.read()
                    assert reply.status in (201, 202), reply.status
            say(str(time.monotonic()))
            return web.json_response({"outcome": "accepted"})

        application = web.Application()
        application.router.add_post(PATH, take)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        say(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await asyncio.Event().wait()


def main() -> None:
    name, folder, splio_url, first, count = sys.argv[1:]
    with (Path(folder) / "log.txt").open("w") as stream:
        configure_logs(log_format="json", level="INFO", stream=stream)
        if name == "ours":
            asyncio.run(ours(Path(folder), splio_url))
        else:
            asyncio.run(naive(splio_url, int(first), int(count)))


if __name__ == "__main__":
    main()
