"""What the Splio adapter needs to know of the settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from service.domain.effects import Lane
from service.domain.errors import StartupError
from service.domain.planning import ContactKey

PointsKind = Literal["nq", "q"]
Hours = Literal["padded", "plain"]

# Splio's documented limits per client address, requests per second; contract section A.3.
DOCUMENTED_LIMITS: Final[Mapping[Lane, float | None]] = MappingProxyType(
    {Lane.CONTACTS: 20.0, Lane.SALES: 20.0, Lane.OTHER: 10.0}
)


@dataclass(frozen=True, slots=True)
class SplioConfig:
    """
    Where Splio is and how it may be talked to.

    Args:
        url: `https`, or `http` to loopback; a path in it goes before every path.
        limits: requests per second by lane; a lane that is missing or None has no limit.
        reserves_checkout: a part of the limit of lane `other` goes first for the checkout's calls;
            what they leave is everybody's.
        request_timeout_s: of requests that carry no deadline of their own.
        connect_timeout_s: for a connection, waiting for a free one included.
        keep_alive_s: idle connections are closed after this long. Shorter than any server we
            know does it, so that a request rarely meets a connection that is about to close.
        token_max_age_s: of a token whose own life cannot be read (a support article names one
            hour and advises to renew every 50 minutes).
        contact_key: the unique key of the universe's contacts.
        timezone: in which Splio writes dates, as they name none.
        breaker_failures: this many in a row stop the requests.
    """

    url: str
    api_key: str = field(repr=False)
    points_kind: PointsKind = "nq"
    limits: Mapping[Lane, float | None] = field(default_factory=lambda: DOCUMENTED_LIMITS)
    reserves_checkout: bool = False
    request_timeout_s: float = 10.0
    connect_timeout_s: float = 5.0
    keep_alive_s: float = 4.0
    connections: int = 100
    reply_limit_bytes: int = 1 << 20
    token_max_age_s: float = 50 * 60.0
    contact_key: ContactKey = ContactKey.EMAIL
    timezone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    breaker_failures: int = 5
    breaker_first_pause_s: float = 1.0
    breaker_longest_pause_s: float = 30.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if not parts.hostname or parts.scheme not in ("https", "http"):
            raise StartupError("splio_url", "not an https address")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise StartupError("splio_url", "only scheme, host, port and path are allowed")
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise StartupError("splio_url", "http is allowed to loopback only")
        for lane, limit in self.limits.items():
            if limit is not None and limit <= 0:
                raise StartupError("splio_limits", f"the limit of {lane.value} must be above 0")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
