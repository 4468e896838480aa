"""`python -m tests.harness.run_sandbox '{"path": …}'`: a sandbox until it is killed."""

import asyncio
import signal
import sys
from typing import Any

import orjson

from service.sandbox.splio import SplioSandboxSettings, open_splio_sandbox


async def _serve(settings: dict[str, Any]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with open_splio_sandbox(SplioSandboxSettings(**settings)):
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(_serve(orjson.loads(sys.argv[1])))
