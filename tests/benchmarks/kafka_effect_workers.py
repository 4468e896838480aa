"""
The processes that `bench_kafka_effects` compares; each prints one JSON object.

`ours` is the service in the role `consume`, measured until PostgreSQL has both effects of each
event applied. `naive` is what a script would do: an aiokafka consumer, the same two requests per
event, 32 events at a time, a commit every 500, nothing else recorded. Its requests are rendered
before, so that it parses and maps nothing either.
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiokafka import AIOKafkaConsumer

from service.settings import Settings
from service.stores import Role
from service.telemetry.logs import configure_logs
from tests.benchmarks.effect_workers import AT_ONCE, ours, rss_mib, send, speed
from tests.benchmarks.events import Requests, fill_log, orders, rendered, settings_of

_COMMIT_EVERY = 500
_FETCH_MS = 500


async def naive(settings: Settings, splio_url: str, count: int, skip: int) -> dict[str, Any]:
    """An aiokafka consumer that makes the same requests; the clock starts after `skip` events."""
    known = {each.order_id.encode(): each for each in rendered(orders(count))}
    consumer = AIOKafkaConsumer(
        f"{settings.topic_prefix}scayle.orders.v1",
        bootstrap_servers=settings.log_url.removeprefix("kafka://"),
        group_id=f"{settings.topic_prefix}naive",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        async with aiohttp.ClientSession(
            splio_url, connector=aiohttp.TCPConnector(limit=2 * AT_ONCE)
        ) as session:
            began, cpu = time.perf_counter(), time.process_time()
            done = 0
            while done < count:
                found = await consumer.getmany(timeout_ms=_FETCH_MS, max_records=_COMMIT_EVERY)
                wanted = iter([known[row.key] for rows in found.values() for row in rows])
                done += await _work_off(session, wanted)
                if found:
                    await consumer.commit()
                if done <= skip:
                    began, cpu, skip = time.perf_counter(), time.process_time(), done
            took, used = time.perf_counter() - began, time.process_time() - cpu
    finally:
        await consumer.stop()
    return {**speed(count - skip, took, used), "rss_mib": rss_mib()}


async def _work_off(session: aiohttp.ClientSession, wanted: Iterator[Requests]) -> int:
    """A batch, so many at a time; how many those were."""
    done = 0

    async def work() -> None:
        nonlocal done
        for each in wanted:
            await send(session, each)
            done += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())
    return done


def main() -> None:
    name, folder, splio_url, count, skip, place = sys.argv[1:]
    settings = settings_of(Path(folder), splio_url, orjson.loads(place))
    with (Path(folder) / f"{name}.txt").open("w") as stream:
        configure_logs(log_format="json", level="INFO", stream=stream)
        match name:
            case "ours":
                result = asyncio.run(ours(settings, int(count), role=Role.CONSUME, skip=int(skip)))
            case "naive":
                result = asyncio.run(naive(settings, splio_url, int(count), int(skip)))
            case _:
                asyncio.run(fill_log(settings, orders(int(count))))
                result = {}
    sys.stdout.write(orjson.dumps(result).decode())


if __name__ == "__main__":
    main()
