"""The command line as a process: signals and pipes."""

import asyncio
import os
import signal
import sys

from aiohttp import web

from tests.fakes.operations_api import effect, open_operations_api_server

LIMIT_S = 20.0


async def start(port: int, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service",
        *arguments,
        env={**os.environ, "RELAY_OPERATIONS_PORT": str(port)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_ctrl_c_is_130_without_a_traceback() -> None:
    asked, released = asyncio.Event(), asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        asked.set()
        await released.wait()
        return web.Response()

    async with asyncio.timeout(LIMIT_S), open_operations_api_server() as api:
        api.instead = hang
        process = await start(api.port, "effects", "list")
        await asked.wait()
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        released.set()
    assert process.returncode == 130
    assert out == b""
    assert b"Traceback" not in err


async def test_a_reader_that_had_enough_is_no_error_of_ours() -> None:
    async with asyncio.timeout(LIMIT_S), open_operations_api_server() as api:
        api.effects = [effect(f"{number:05}") for number in range(2_000)]
        process = await start(api.port, "effects", "list", "--all", "--json")
        assert process.stdout is not None
        assert process.stderr is not None
        await process.stdout.readline()
        process.stdout._transport.close()  # type: ignore[attr-defined]  # what `| head -1` does
        err = await process.stderr.read()
        await process.wait()
    assert b"Traceback" not in err
