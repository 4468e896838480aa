"""Looks at Splio without changing anything: can we get in, and is what we need there?"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from service.domain.effects import Lane
from service.domain.errors import RelayError
from service.splio.config import SplioConfig
from service.splio.errors import describe, parse_errors
from service.splio.readback import UnreadableReplyError, exact_number, parse_exact

_PROGRAMS_PATH: Final = "/loyalty/programs?per_page=1000&page_number=1"  # 1000 is the most
_OK: Final = range(200, 300)
_NOT_FOUND: Final = 404
_TOO_MANY_REQUESTS: Final = 429
_KEY_REFUSED: Final = (400, 401, 403)  # 400 is documented; of a wrong address it is none of these


class ProbeError(RelayError):
    """
    Tell the operator: Splio did not answer as it should.

    Reasons: `not_connected`, `no_answer`, `key_refused`, `rate_limited`, `refused`, `unreadable`.
    """


@dataclass(frozen=True, slots=True)
class Program:
    """What matters of a loyalty programme."""

    id: int
    name: str
    is_running: bool
    subscribes_automatically: bool
    makes_card_codes: bool


@dataclass(frozen=True, slots=True)
class Reward:
    """What matters of a reward that takes points; `price` is in NQ points, None when not told."""

    price: Decimal | None
    is_limited: bool


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: bytes


class SplioProbe:
    """
    Reads a universe, one request at a time; beside the service's own limiter, so keep it short.

    Every method raises ProbeError; its detail holds no value of a reply.
    """

    def __init__(self, session: aiohttp.ClientSession, config: SplioConfig) -> None:
        self._session = session
        self._config = config
        self._authorization: str | None = None
        self._limits: dict[Lane, float] = {}
        self._clock_offset_s: float | None = None

    @property
    def limits(self) -> Mapping[Lane, float]:
        """Requests per window that Splio's headers named, by lane; those seen so far."""
        return self._limits

    @property
    def clock_offset_s(self) -> float | None:
        """
        Seconds that this machine's clock is ahead of Splio's, None without a `Date` header.

        Good to about one second, which is what the header tells.
        """
        return self._clock_offset_s

    async def authenticate(self) -> None:
        """Get a token; the other methods need it."""
        body = orjson.dumps({"api_key": self._config.api_key})
        reply = await self._request("POST", "/authenticate", Lane.OTHER, body)
        if reply.status in _KEY_REFUSED:
            raise ProbeError("key_refused", _told(reply))
        token = _object(_accepted(reply)).get("token")
        if not (isinstance(token, str) and token and token.isascii() and token.isprintable()):
            raise ProbeError("unreadable", "no token in the answer")
        self._authorization = f"Bearer {token}"

    async def ping(self) -> None:
        """Use the token once."""
        _object(_accepted(await self._get("/ping", Lane.OTHER)))

    async def unique_key(self) -> str:
        """The unique key of the universe's contacts: `email`, `cellphone` or `cN`."""
        reply = _accepted(await self._get("/universes/unique-key", Lane.OTHER))
        unique_key = _object(reply).get("unique_key")
        if not isinstance(unique_key, str):
            raise ProbeError("unreadable", "no unique_key in the answer")
        return unique_key

    async def programs(self) -> tuple[Program, ...]:
        """The loyalty programmes of the universe, by id."""
        reply = _accepted(await self._get(_PROGRAMS_PATH, Lane.OTHER))
        elements = _object(reply).get("elements")
        if not isinstance(elements, list):
            raise ProbeError("unreadable", "no elements in the answer")
        programs = [_program(element) for element in elements if isinstance(element, dict)]
        return tuple(sorted(programs, key=lambda program: program.id))

    async def has_store(self, external_id: str) -> bool:
        """Whether the universe knows this store."""
        path = f"/data/v1/stores/{quote(external_id, safe='')}"
        return await self._find(path, Lane.SALES) is not None

    async def reward(self, external_id: str) -> Reward | None:
        """The definition of a reward, None when the universe does not know it."""
        path = f"/loyalty/v1/rewards/{quote(external_id, safe='')}"
        document = await self._find(path, Lane.OTHER)
        if document is None:
            return None
        return Reward(
            price=exact_number(document.get("nqp_value")),
            is_limited=document.get("limited") is True,
        )

    async def _find(self, path: str, lane: Lane) -> Mapping[str, Any] | None:
        """The object at `path`, None when the universe does not know it."""
        reply = await self._get(path, lane)
        # A wrong address answers 404 as well, but without naming an error.
        if reply.status == _NOT_FOUND and any(
            "not found" in error.description.lower() for error in parse_errors(reply.body)
        ):
            return None
        return _object(_accepted(reply))

    async def _get(self, path: str, lane: Lane) -> _Reply:
        return await self._request("GET", path, lane)

    async def _request(
        self, method: str, path: str, lane: Lane, body: bytes | None = None
    ) -> _Reply:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._authorization is not None:
            headers["Authorization"] = self._authorization
        try:
            async with self._session.request(
                method,
                URL(self._config.url.rstrip("/") + path, encoded=True),
                data=body,
                headers=headers,
                allow_redirects=False,
            ) as response:
                content = await _read(response, self._config.reply_limit_bytes)
                self._note(response.headers, lane)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise ProbeError("not_connected", _why(error)) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ProbeError("no_answer", _why(error)) from error
        if response.status == _TOO_MANY_REQUESTS:
            raise ProbeError("rate_limited", describe(parse_errors(content)))
        return _Reply(response.status, content)

    def _note(self, headers: Mapping[str, str], lane: Lane) -> None:
        limit = headers.get("rateLimit-limit", "")
        if limit.isascii() and limit.isdigit():
            self._limits[lane] = float(limit)
        try:
            at = parsedate_to_datetime(headers.get("Date", ""))
        except ValueError:
            return
        if at.tzinfo is None:
            return
        offset_s = (datetime.now(UTC) - at).total_seconds()
        # A slow reply looks like a clock that is ahead: the smallest of several is the best.
        if self._clock_offset_s is None or abs(offset_s) < abs(self._clock_offset_s):
            self._clock_offset_s = offset_s


@asynccontextmanager
async def open_probe(config: SplioConfig) -> AsyncIterator[SplioProbe]:
    """A probe of the universe that `config` names; every request has its time limits."""
    timeout = aiohttp.ClientTimeout(
        total=config.request_timeout_s, connect=config.connect_timeout_s
    )
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
        yield SplioProbe(session, config)


async def _read(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > limit_bytes:
            raise ProbeError("unreadable", f"more than {limit_bytes} bytes")
    return bytes(content)


def _accepted(reply: _Reply) -> _Reply:
    if reply.status not in _OK:
        raise ProbeError("refused", _told(reply))
    return reply


def _told(reply: _Reply) -> str:
    return f"{reply.status} {describe(parse_errors(reply.body))}".rstrip()


def _object(reply: _Reply) -> dict[str, Any]:
    try:
        return parse_exact(reply.body)
    except UnreadableReplyError as error:
        raise ProbeError("unreadable", "not a JSON object") from error


def _program(element: Mapping[str, Any]) -> Program:
    number, name = element.get("id"), element.get("name")
    if isinstance(number, str) and number.isascii() and number.isdigit():
        number = int(number)  # a contact's answer writes it as text
    if not isinstance(number, int):
        raise ProbeError("unreadable", "a programme without an id")
    return Program(
        id=number,
        name=name if isinstance(name, str) else "",
        is_running=element.get("status") == "running",
        subscribes_automatically=element.get("automatic_subscription") is True,
        makes_card_codes=element.get("auto_generated_card_code") is not False,
    )


def _why(error: Exception) -> str:
    """What happened in a few words, with the operating system's where it has some."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted"
    if isinstance(error, TimeoutError):
        return "time-out"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    return getattr(cause, "strerror", None) or type(error).__name__
