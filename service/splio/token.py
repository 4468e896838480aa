"""Splio's token: one for all requests, renewed in time and once when it is refused."""

import asyncio
import base64
import binascii
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from service.domain.clock import Clock
from service.domain.errors import RelayError

_log = logging.getLogger(__name__)

_MARGIN_S: Final = 60.0  # renewed this long before its end ...
_MARGIN_SHARE: Final = 0.1  # ... or after nine tenths of a short life
_RENEW_AGAIN_S: Final = 5.0  # pause after a renewal that failed while the old token is good


@dataclass(frozen=True, slots=True)
class _Token:
    authorization: str
    renew_at_s: float
    ends_at_s: float


class TokenSource:
    """
    The token of one universe. Safe for concurrent tasks: one authentication at a time.

    In its last minute a token is still handed out while its successor is fetched behind it.

    Args:
        authenticate: asks Splio for a new token.
        max_age_s: of a token that does not say when it ends.
    """

    def __init__(
        self, authenticate: Callable[[], Awaitable[str]], clock: Clock, *, max_age_s: float
    ) -> None:
        self._authenticate = authenticate
        self._clock = clock
        self._max_age_s = max_age_s
        self._token: _Token | None = None
        self._renewal: asyncio.Task[_Token] | None = None
        self._renew_not_before_s = 0.0

    def current(self) -> str | None:
        """The value of the `Authorization` header, None when a token has to be fetched first."""
        token = self._token
        if token is None:
            return None
        now = self._clock.monotonic_s()
        if now >= token.ends_at_s:
            return None
        if now >= token.renew_at_s and now >= self._renew_not_before_s:
            self._renew()
        return token.authorization

    async def fetch(self) -> str:
        """
        The same, from a new token when there is none that is good.

        Raises: what `authenticate` raises.
        """
        return self.current() or (await asyncio.shield(self._renew())).authorization

    def discard(self, refused: str) -> None:
        """Splio answered 401 to `refused`. Of many that were refused at once, the first counts."""
        if self._token is not None and self._token.authorization == refused:
            self._token = None

    async def close(self) -> None:
        """Stop a renewal that is under way."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)

    def _renew(self) -> asyncio.Task[_Token]:
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._fetch(), name="splio.token")
            self._renewal.add_done_callback(self._fetched)
        return self._renewal

    async def _fetch(self) -> _Token:
        text = await self._authenticate()
        life_s = token_life_s(text, now_s=self._clock.now_ms() / 1000)
        life_s = self._max_age_s if life_s is None else min(life_s, self._max_age_s)
        now = self._clock.monotonic_s()
        margin_s = min(_MARGIN_S, life_s * _MARGIN_SHARE)
        self._token = _Token(f"Bearer {text}", now + life_s - margin_s, now + life_s)
        return self._token

    def _fetched(self, renewal: "asyncio.Task[_Token]") -> None:
        self._renewal = None
        if renewal.cancelled():
            return
        error = renewal.exception()
        if error is None:
            _log.info("token.renewed")
            return
        self._renew_not_before_s = self._clock.monotonic_s() + _RENEW_AGAIN_S
        reason = error.reason if isinstance(error, RelayError) else ""
        _log.warning("token.refused", extra={"reason": reason, "error_type": type(error).__name__})


def token_life_s(token: str, *, now_s: float) -> float | None:
    """
    Seconds that a JWT lives, read without verifying it; None when it does not say.

    `exp` less `iat` where both are there, so that Splio's clock and ours need not agree; else
    `exp` less `now_s`, the wall clock in seconds. Sources name lifetimes of 1, 24 and 26 hours
    (contract section A.1), so none is assumed.
    """
    claims = _claims(token)
    ends_at, begins_at = _seconds(claims.get("exp")), _seconds(claims.get("iat"))
    if ends_at is None:
        return None
    life_s = ends_at - (now_s if begins_at is None else begins_at)
    return life_s if life_s > 0 else None


def _claims(token: str) -> dict[str, Any]:
    parts = token.split(".")
    if len(parts) < 2:  # noqa: PLR2004 - a JWT is header, payload and signature
        return {}
    payload = parts[1]
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _seconds(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)
