"""One transaction of the ledger's writer: its time, its ids and what the writer remembers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from service.ledger.config import LedgerConfig
from service.ledger.database import Connection, Cursor

# Ids are milliseconds since the epoch in the upper bits, then who made them, then a counter.
_ID_SHIFT: Final = 20
NODE_SHIFT: Final = 11
NODES: Final = 1 << (_ID_SHIFT - NODE_SHIFT)  # writers that may be connected at once
_COUNTER_MASK: Final = (1 << NODE_SHIFT) - 1

# Guarantees: an effect whose follower is being written is not inserted before that is committed.
_PLANNING: Final = 0x4C524C33  # "LRL3"
_PLAN_BESIDE_OTHERS: Final = f"SELECT pg_advisory_xact_lock_shared({_PLANNING})"
_PLAN_ALONE: Final = f"SELECT pg_advisory_xact_lock({_PLANNING})"


class ConcurrentChangeError(Exception):
    """Another process committed in between: the transaction is carried out again."""


@dataclass(slots=True)
class WriterMemory:
    """
    What the writer knows without asking the database; only its thread uses it.

    `has_followers` may be true when no effect waits for another any more, never the reverse; with
    other writers on the same database it is always true. `node` tells the writers that are
    connected at the same time apart, None where there is one.
    """

    last_id: int
    has_followers: bool
    node: int | None = None

    def on_node(self, node: int) -> "WriterMemory":
        """
        With another number, after a new connection; its ids begin a millisecond later, as the
        number may be the old one again.
        """
        begin = (self.last_id >> _ID_SHIFT) + 1
        last_id = (begin << _ID_SHIFT) | (node << NODE_SHIFT)
        return WriterMemory(last_id=last_id, has_followers=True, node=node)


def first_id_at(time_ms: int) -> int:
    """Rows with a smaller id are older than `time_ms`."""
    return time_ms << _ID_SHIFT


@dataclass(frozen=True, slots=True)
class Tx:
    """The open transaction of the writer; `now_ms` is the same for all that it writes."""

    connection: Connection
    now_ms: int
    memory: WriterMemory
    config: LedgerConfig
    _expected: list[tuple[Sequence[Cursor], int, Exception]] = field(default_factory=list)

    def expect(self, cursors: Sequence[Cursor], changed: int, error: Exception) -> None:
        """These change so many rows together, or the transaction fails with `error`."""
        self._expected.append((cursors, changed, error))

    def check(self) -> None:
        """Look at what was expected, before the transaction is committed."""
        for cursors, changed, error in self._expected:
            if sum(cursor.rowcount for cursor in cursors) != changed:
                raise error

    def plan_beside_others(self) -> None:
        """To be called before effects are inserted: not while another process plans alone."""
        if self.connection.takes_arrays:
            self.connection.execute(_PLAN_BESIDE_OTHERS)

    def plan_alone(self) -> bool:
        """Let no other process insert effects until this ends; False where there is no other."""
        if self.connection.takes_arrays:
            self.connection.execute(_PLAN_ALONE)
        return self.connection.takes_arrays

    def id(self) -> int:
        """A new id: greater than all before of this writer, and telling its time."""
        memory = self.memory
        if memory.node is None:
            last = memory.last_id = max(memory.last_id + 1, self.now_ms << _ID_SHIFT)
            return last
        first = (self.now_ms << _ID_SHIFT) | (memory.node << NODE_SHIFT)
        following = memory.last_id + 1
        if following & _COUNTER_MASK == 0:
            # This millisecond's numbers are used up; the next one's are borrowed.
            following += (1 << _ID_SHIFT) - (1 << NODE_SHIFT)
        last = memory.last_id = max(following, first)
        return last
