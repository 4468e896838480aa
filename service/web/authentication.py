"""Credentials: HTTP Basic of webhooks and operators, and what every way of proving them shares."""

import binascii
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from hmac import compare_digest
from ipaddress import IPv6Address, ip_address
from math import ceil
from os import urandom
from typing import Final

from aiohttp import web

from service.domain.clock import Clock
from service.web.answers import problem

_FAILURES: Final = 10  # per address and window, enough for a person's mistakes
_WINDOW_S: Final = 60.0
_ADDRESSES: Final = 1024  # remembered at once, some 100 bytes each


class LoginThrottle:
    """Counts failed logins by address in a bounded memory; the longest quiet is forgotten."""

    def __init__(
        self, clock: Clock, *, failures: int = _FAILURES, window_s: float = _WINDOW_S
    ) -> None:
        self._clock = clock
        self._failures = failures
        self._window_s = window_s
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def retry_after_s(self, address: str) -> float:
        """Note one more failure from `address`; 0, or how long it has had too many."""
        now_s = self._clock.monotonic_s()
        network = _network(address)
        count, until_s = self._seen.pop(network, (0, 0.0))
        if now_s >= until_s:
            count, until_s = 0, now_s + self._window_s
        self._seen[network] = (count + 1, until_s)
        if len(self._seen) > _ADDRESSES:
            self._seen.popitem(last=False)
        return until_s - now_s if count >= self._failures else 0.0


class KnownSecrets:
    """Tells whether a text is one of several, in a time that does not tell how near it was."""

    def __init__(self, secrets: Iterable[bytes]) -> None:
        # Digests under a key of this process have one length, whatever was sent.
        self._key = urandom(32)
        self._digests = [self._digest(secret) for secret in secrets]

    def holds(self, given: bytes) -> bool:
        """Whether `given` is one of them; each is looked at."""
        digest = self._digest(given)
        is_known = False
        for known in self._digests:
            is_known |= compare_digest(digest, known)
        return is_known

    def _digest(self, secret: bytes) -> bytes:
        return blake2b(secret, key=self._key, digest_size=32).digest()


def refuse_missing(challenge: Mapping[str, str]) -> web.Response:
    """The answer to a request that shows nothing; that is no failed login."""
    return problem(401, "unauthorized", "Credentials are needed", headers=challenge)


def refuse_wrong(
    request: web.BaseRequest, *, throttle: LoginThrottle, challenge: Mapping[str, str]
) -> web.Response:
    """The answer to wrong credentials: 401, and 429 when their address sends too many."""
    retry_after_s = throttle.retry_after_s(request.remote or "")
    if retry_after_s:
        return problem(
            429,
            "too-many-failed-logins",
            "Too many failed logins from this address",
            "Right credentials pass at any time.",
            headers={"Retry-After": str(ceil(retry_after_s))},
        )
    return problem(401, "unauthorized", "Wrong credentials", headers=challenge)


class BasicAuthentication:
    """
    Checks HTTP Basic against several pairs at once.

    Right credentials always pass. Wrong ones are answered 401, and 429 when an address sends too
    many; a request without credentials is no failed login.
    """

    def __init__(
        self, credentials: Sequence[tuple[str, str]], *, realm: str, throttle: LoginThrottle
    ) -> None:
        self._known = KnownSecrets(f"{user}:{word}".encode() for user, word in credentials)
        self._challenge = {"WWW-Authenticate": f'Basic realm="{realm}", charset="UTF-8"'}
        self._throttle = throttle

    def refusal(self, request: web.BaseRequest) -> web.Response | None:
        """The answer to a request that may not pass, None when it may. Reads headers only."""
        header = request.headers.get("Authorization")
        if header is None:
            return refuse_missing(self._challenge)
        if self._knows(header):
            return None
        return refuse_wrong(request, throttle=self._throttle, challenge=self._challenge)

    def _knows(self, header: str) -> bool:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            pair = binascii.a2b_base64(token.strip(), strict_mode=True)
        except ValueError:  # binascii.Error is one; text beyond ASCII another
            return False
        return self._known.holds(pair)


def _network(address: str) -> str:
    """An IPv6 address counts by its /64, which one machine has to itself."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return parsed.exploded[:19]
    return address
