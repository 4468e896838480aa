"""SCAYLE Checkout's calls of a loyalty adapter, each repeated until it is settled."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson

from service.sandbox.deliveries import LOST, retry_after_s

# Of the middle documentation; the old page names no method for captures and refunds.
METHODS = {
    "points-rate": "GET",
    "balance": "GET",
    "validate": "POST",
    "register": "POST",
    "capture": "PUT",
    "refund": "POST",
}
_DONE = (HTTPStatus.OK, HTTPStatus.CREATED)
# Of the answers that begin with 4, those that ask to come back.
_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_FIRST_WAIT_S = 0.1


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """
    How a call ended.

    Attributes:
        status: None when no attempt was settled; it may have been taken all the same.
        document: the JSON object of the answer, empty without one.
    """

    status: int | None
    document: Mapping[str, Any]

    @property
    def is_done(self) -> bool:
        """Whether it was answered that it is done."""
        return self.status in _DONE


class CheckoutCalls:
    """
    Calls the doors under `url` with one token, and counts how they answer.

    Not settled, and sent again, is what gets no answer, a 5xx, 408 or 429. SCAYLE does so with
    captures for up to two days, at intervals that it does not document. On a connection that
    breaks aiohttp itself sends a GET or PUT once more (RFC 9112, section 9.3.1); that is not
    counted.

    Args:
        program: SCAYLE's key of the programme, `type` in each call.
        attempts: requests per call, the first included.
        longest_wait_s: the wait before a repeat doubles, or is as long as `Retry-After` says, up
            to this.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        token: str,
        program: str,
        attempts: int,
        longest_wait_s: float,
        draw: random.Random,
    ) -> None:
        self._session = session
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._program = program
        self._attempts = attempts
        self._longest_wait_s = longest_wait_s
        self._draw = draw
        self._answers: dict[str, Counter[str]] = {}

    def by_status(self) -> dict[str, dict[str, int]]:
        """Operation to status to how many requests; `lost` where there was no answer."""
        return {name: dict(sorted(self._answers[name].items())) for name in sorted(self._answers)}

    async def call(self, operation: str, **fields: Any) -> CallAnswer:
        """One call, sent until it is settled."""
        wait_s = _FIRST_WAIT_S
        for attempt in range(1, self._attempts + 1):
            answer, told_s = await self._attempt(operation, {**fields, "type": self._program})
            if answer.status is not None and _is_settled(answer.status):
                return answer
            if attempt < self._attempts:
                pause_s = max(told_s, wait_s * self._draw.uniform(0.5, 1))
                await asyncio.sleep(min(self._longest_wait_s, pause_s))
                wait_s *= 2
        return CallAnswer(None, {})

    async def _attempt(self, operation: str, fields: Mapping[str, Any]) -> tuple[CallAnswer, float]:
        method = METHODS[operation]
        sent: dict[str, Any] = {"params": fields} if method == "GET" else {"json": fields}
        try:
            async with self._session.request(
                method, f"{self._url}/{operation}", headers=self._headers, **sent
            ) as response:
                body = await response.read()
                told_s = retry_after_s(response.headers.get("Retry-After"))
                answer = CallAnswer(response.status, _object(body))
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            answer, told_s = CallAnswer(None, {}), 0.0
        name = LOST if answer.status is None else str(answer.status)
        self._answers.setdefault(operation, Counter())[name] += 1
        return answer, told_s


def _is_settled(status: int) -> bool:
    return status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _LATER


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}
