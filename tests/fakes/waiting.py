"""Waiting in tests for what other tasks do."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], *, timeout_s: float = 5.0) -> None:
    """Let other tasks run until `condition` holds; a test that waits in vain fails."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  what a test waits for has no event
            await asyncio.sleep(0)


async def settle_down(rounds: int = 50) -> None:
    """Let other tasks run as far as they get by themselves, to see that something stays."""
    for _ in range(rounds):
        await asyncio.sleep(0)
