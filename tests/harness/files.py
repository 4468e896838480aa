"""Looks into a service's log and ledger from outside, while it runs or after it was killed."""

import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
import psycopg
from aiokafka import AIOKafkaConsumer

from producers.notices import read_outcome
from service.domain.effects import OPEN_STATES, SETTLED_STATES
from service.domain.records import PublicTopic, Topic

_OFFSET_BITS: Final = 48  # of a record's position in the log; above them is its stream

_OPEN: Final = f"SELECT count(*) FROM effects WHERE state IN {tuple(map(str, OPEN_STATES))}"
_SETTLED: Final = (
    f"SELECT effect_key, state FROM effects WHERE state IN {tuple(map(str, SETTLED_STATES))}"
)
_HOLDS: Final = "SELECT count(*) FROM holds WHERE ended_at IS NULL"
_NOTICES: Final = "SELECT count(*) FROM outbox"
_PLANNED: Final = "SELECT order_key FROM orders"
_ENDS: Final = f"""
    SELECT topic, partition, max(first_offset, coalesce(
        (SELECT max(position) FROM records WHERE position >> {_OFFSET_BITS} = streams.id)
            - (streams.id << {_OFFSET_BITS}) + 1, 0)) FROM streams
"""
_POSITIONS: Final = 'SELECT topic, "partition", position FROM positions'

_OF_ATTEMPTS: Final = "SELECT effect_key FROM attempts JOIN effects ON effects.id = effect_id"

# What must hold once nothing is open; each query names the rows for which it does not.
_RULES: Final = {
    "settled in an unknown state": (
        "SELECT effect_key || ' ' || state FROM effects"
        f" WHERE state NOT IN {tuple(map(str, SETTLED_STATES))}"
    ),
    "settled without a time": "SELECT effect_key FROM effects WHERE settled_at IS NULL",
    "settled under a lease": "SELECT effect_key FROM effects WHERE lease_owner IS NOT NULL",
    "applied by more than one attempt": (
        f"{_OF_ATTEMPTS} WHERE outcome = 'applied' GROUP BY effect_key HAVING count(*) > 1"
    ),
    "suspected double": f"{_OF_ATTEMPTS} WHERE result = 'suspected_double'",
    "more attempts recorded than claimed": (
        f"{_OF_ATTEMPTS} WHERE attempts.attempt > effects.attempt"
    ),
    "effects without their order": (
        "SELECT effect_key FROM effects WHERE kind IN ('order', 'earn')"
        " AND order_key NOT IN (SELECT order_key FROM orders)"
    ),
}


Positions = Mapping[tuple[str, int], int]


class LedgerView(Protocol):
    """One ledger, looked at by SQL that both databases understand."""

    def rows(self, query: str) -> list[Any]: ...

    def change(self, statement: str) -> None:
        """Run a statement that changes rows, and commit it."""
        ...

    def check(self) -> None:
        """Raises: AssertionError when the database itself is damaged."""
        ...


@dataclass(frozen=True, slots=True)
class SqliteView:
    """The ledger in a file."""

    path: Path

    def rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True)) as db:
            return db.execute(query).fetchall()

    def change(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as db, db:
            db.execute(statement)

    def check(self) -> None:
        ((verdict,),) = self.rows("PRAGMA integrity_check")
        assert verdict == "ok", verdict


@dataclass(frozen=True, slots=True)
class PostgresView:
    """The ledger on a server."""

    address: str

    def rows(self, query: str) -> list[Any]:
        with psycopg.connect(self.address, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def change(self, statement: str) -> None:
        with psycopg.connect(self.address, autocommit=True) as connection:
            connection.execute(statement.encode())

    def check(self) -> None:
        """A server that answers has checked itself."""
        self.rows("SELECT count(*) FROM effects")


class LogView(Protocol):
    """One log: where each stream ends, and what downstream services find."""

    async def ends(self) -> Positions: ...

    async def outcomes(self) -> set[tuple[str, str]] | None:
        """The published outcomes, as (effect key, outcome); None where nobody can read them."""
        ...


@dataclass(frozen=True, slots=True)
class SqliteLogView:
    """The log in a file."""

    path: Path

    async def ends(self) -> Positions:
        rows = SqliteView(self.path).rows(_ENDS)
        return {(topic, number): end for topic, number, end in rows}

    async def outcomes(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class KafkaLogView:
    """The log on a broker."""

    servers: tuple[str, ...]
    prefix: str

    async def ends(self) -> Positions:
        topics = {self.prefix + topic.value: topic.value for topic in Topic}
        async with self._reader(*topics) as consumer:
            ends = await consumer.end_offsets(consumer.assignment())
            return {(topics[each.topic], each.partition): end for each, end in ends.items()}

    async def events(self, topic: Topic) -> Mapping[str, Sequence[str]]:
        """The ids of all events of a topic, by key, as they lie there."""
        found: dict[str, list[str]] = defaultdict(list)
        async with self._reader(self.prefix + topic.value) as consumer:
            partitions = consumer.assignment()
            ends = await consumer.end_offsets(partitions)
            while any([await consumer.position(each) < ends[each] for each in partitions]):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    for record in records:
                        found[record.key.decode()].append(orjson.loads(record.value)["event_id"])
        return found

    async def outcomes(self) -> set[tuple[str, str]]:
        async with self._reader(self.prefix + PublicTopic.OUTCOMES.value) as reader:
            ends = await reader.end_offsets(reader.assignment())
            left = {at for at, end in ends.items() if end}
            found: set[tuple[str, str]] = set()
            while left:
                for records in (await reader.getmany(timeout_ms=500)).values():
                    outcomes = map(read_outcome, (record.value for record in records))
                    found.update((each.effect_key, each.outcome.value) for each in outcomes)
                left = {at for at in left if await reader.position(at) < ends[at]}
            return found

    @asynccontextmanager
    async def _reader(self, *topics: str) -> AsyncIterator[Any]:
        """All partitions of these topics, from their beginning, outside of any group."""
        consumer = AIOKafkaConsumer(
            *topics, bootstrap_servers=list(self.servers), auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            assert consumer.assignment()
            yield consumer
        finally:
            await consumer.stop()


def count_open(ledger: LedgerView) -> int:
    """Effects that are not settled."""
    ((count,),) = ledger.rows(_OPEN)
    return int(count)


def count_holds(ledger: LedgerView) -> int:
    """Captures that still lower a balance."""
    ((count,),) = ledger.rows(_HOLDS)
    return int(count)


def planned_orders(ledger: LedgerView) -> set[str]:
    """Ids of the orders that the ledger knows."""
    return {order_key for (order_key,) in ledger.rows(_PLANNED)}


def settled_effects(ledger: LedgerView) -> set[tuple[str, str]]:
    """Key and state of the effects that are settled."""
    return {(key, state) for key, state in ledger.rows(_SETTLED)}


def count_notices(ledger: LedgerView) -> int:
    """Notices that downstream services were not told yet."""
    ((count,),) = ledger.rows(_NOTICES)
    return int(count)


async def backlog(log: LogView, ledger: LedgerView) -> int:
    """
    Records in the log that the ledger has not taken yet.

    Ask for it before what is open: what is planned between the two questions is in neither.
    """
    ends = await log.ends()
    positions = {(topic, number): at for topic, number, at in ledger.rows(_POSITIONS)}
    return sum(end - positions.get(stream, 0) for stream, end in ends.items())


def assert_ledger_is_sound(ledger: LedgerView) -> None:
    """
    The ledger of a run that came to rest with everything settled.

    Raises: AssertionError naming every broken rule.
    """
    ledger.check()
    broken = {rule: [key for (key,) in ledger.rows(query)] for rule, query in _RULES.items()}
    assert not any(broken.values()), {rule: keys for rule, keys in broken.items() if keys}


def let_time_pass(ledger: LedgerView, *, seconds: float) -> None:
    """
    Make every effect of a stopped service older, so that what it waits for has come.

    A test that waits for an hour is not worth having.
    """
    shift = int(seconds * 1000)
    times = ("due_at", "created_at", "received_at", "first_attempt_at", "absence_counts_from")
    changes = ", ".join(f"{name} = {name} - {shift}" for name in times)
    ledger.change(f"UPDATE effects SET {changes}")
