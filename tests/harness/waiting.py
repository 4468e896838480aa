"""Waiting for something to become true, instead of for time to pass."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Final

_LOOK_S: Final = 0.02


async def until(
    condition: Callable[[], object | Awaitable[object]],
    *,
    what: str,
    timeout_s: float = 15.0,
    every_s: float = _LOOK_S,
) -> None:
    """
    Wait until `condition`, which may be a coroutine function, is true.

    Args:
        every_s: between two looks; longer where a look costs something.
    Raises: AssertionError naming `what` when it takes too long.
    """
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            while True:
                found = condition()
                if await found if isawaitable(found) else found:
                    return
                await asyncio.sleep(every_s)
    except TimeoutError:
        if not limit.expired():
            raise
        raise AssertionError(f"not within {timeout_s:g} s: {what}") from None
