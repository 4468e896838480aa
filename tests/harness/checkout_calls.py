"""One call of SCAYLE Checkout, as it comes over HTTP."""

from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import orjson

from tests.harness.checkout_plan import TOKEN
from tests.harness.relay import Answer

_LIMIT_S: Final = 15.0


async def ask(
    session: aiohttp.ClientSession, url: str, operation: str, document: Mapping[str, Any]
) -> Answer:
    """
    The answer of the service whose public address is `url`.

    Raises: aiohttp.ClientError, TimeoutError when nobody is there, or dies before it answered.
    """
    is_question = operation == "balance"
    async with session.request(
        "GET" if is_question else "POST",
        f"{url}/loyalty/{operation}",
        params=document if is_question else None,
        data=None if is_question else orjson.dumps(document),
        headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        timeout=aiohttp.ClientTimeout(total=_LIMIT_S),
    ) as response:
        return Answer(response.status, response.headers, await response.read())
