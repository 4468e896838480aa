"""How a call of the checkout came in: what is kept with all that it leads to."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arrival:
    """
    One call: its id (a UUIDv7, made at receipt), its time and its trace.

    `deadline_s`: monotonic; by then what the answer needs of Splio is known, or is not waited for.
    """

    call_id: str
    received_at_ms: int
    traceparent: str
    deadline_s: float
