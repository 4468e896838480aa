"""W3C trace context: one trace from SCAYLE's webhook to Splio's request and the outcome."""

import random
import re
from typing import Final

# version - trace id - parent id - flags; all-zero ids and version ff are invalid, and only a
# later version than 00 may go on after the flags. Source: W3C Trace Context 1, section 3.2.
_TRACEPARENT: Final = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?P<trace_id>(?!0{32})[0-9a-f]{32})"
    r"-(?!0{16})[0-9a-f]{16}-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?",
    re.DOTALL,
)
_SAMPLED: Final = 1  # the only flag of version 00; the others are sent as 0


def new_traceparent() -> str:
    """A trace that begins here."""
    return f"00-{_random_id(16)}-{_random_id(8)}-01"


def continue_trace(header: str | None) -> str:
    """The trace of an incoming `traceparent` header, or a new one when it is absent or invalid."""
    parts = _TRACEPARENT.fullmatch(header) if header else None
    if parts is None or (parts["version"] == "00" and parts["more"]):
        return new_traceparent()
    flags = int(parts["flags"], 16) & _SAMPLED
    return f"00-{parts['trace_id']}-{_random_id(8)}-{flags:02x}"


def trace_id(traceparent: str) -> str:
    """The 32 hex digits that name the trace, for log lines."""
    return traceparent[3:35]


def _random_id(size_bytes: int) -> str:
    """
    Random hex digits, not all zero; they are no secret, and the system's randomness would have
    to be waited for.
    """
    return f"{random.randrange(1, 1 << 8 * size_bytes):0{2 * size_bytes}x}"
