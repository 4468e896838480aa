"""W3C trace context: one trace from SCAYLE's webhook to Splio's request and the outcome."""

import os
import re
from typing import Final

# version - trace id - parent id - flags; all-zero ids are invalid. Source: W3C Trace Context 1.
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-")


def new_traceparent() -> str:
    """A trace that begins here."""
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"


def continue_trace(header: str | None) -> str:
    """The trace of an incoming `traceparent` header, or a new one when it is absent or invalid."""
    if header is not None and len(header) >= 55 and _TRACEPARENT.match(header):  # noqa: PLR2004  its fixed length
        return f"00-{header[3:35]}-{os.urandom(8).hex()}-{header[53:55]}"
    return new_traceparent()


def child_of(traceparent: str) -> str:
    """The same trace with a new parent id, for one outgoing request."""
    return f"{traceparent[:36]}{os.urandom(8).hex()}{traceparent[52:]}"


def trace_id(traceparent: str) -> str:
    """The 32 hex digits that name the trace, for log lines."""
    return traceparent[3:35]
