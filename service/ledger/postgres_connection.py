"""Connections to the ledger on PostgreSQL: their time limits, their SQL and their transactions."""

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import lru_cache, partial
from typing import Any, Final, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import PQGen

from service.domain.errors import LedgerUnavailableError
from service.ledger.database import Cursor
from service.ledger.postgres_arrays import ArrayDumper
from service.ledger.transaction import NODES, ConcurrentChangeError, WriterMemory

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 3
_STATEMENT_TIMEOUT_MS: Final = 5_000  # of one statement, by the server
_LOCK_TIMEOUT_MS: Final = 3_000  # of waiting for a row that another process changes
_IDLE_TIMEOUT_MS: Final = 10_000  # of a transaction whose process does nothing
# Of a whole one, as the limit above does not count between statements that are sent one behind the
# other: a process that is stopped there would keep its rows from all others.
TRANSACTION_TIMEOUT_MS: Final = 30_000
_KNOWS_TRANSACTION_TIMEOUT: Final = 170_000  # the server's version
# What a server that does not answer at all is waited for; longer than its own limits.
_ANSWER_TIMEOUT_S: Final = 8.0
_NODE_LOCK: Final = 0x4C524C31  # "LRL1": the first half of the advisory locks that number writers

# Raised when the server is away, or refuses for a while.
AWAY: Final = (psycopg.OperationalError, psycopg.InterfaceError)

# What a value is refused with for what it is: a NUL or half a character, a number that is too
# large, a key that is too long for an index.
NOT_STORABLE: Final = (psycopg.DataError, UnicodeEncodeError, errors.ProgramLimitExceeded)

# A prepared statement does not fit the tables any more, or is gone; a new connection has none.
_OUTDATED: Final = (errors.FeatureNotSupported, errors.InvalidSqlStatementName)

_PLACE: Final = re.compile(r"\?(\d*)")
_HINTS: Final = re.compile(r" INDEXED BY \w+")

_SETTINGS: Final = (
    # A commit that was answered is on this server's disk, and on a synchronous standby's.
    "-c synchronous_commit=on",
    "-c default_transaction_isolation=read\\ committed",
    f"-c statement_timeout={_STATEMENT_TIMEOUT_MS}",
    f"-c lock_timeout={_LOCK_TIMEOUT_MS}",
    f"-c idle_in_transaction_session_timeout={_IDLE_TIMEOUT_MS}",
    "-c timezone=UTC",
    "-c jit=off",
    # What is prepared while the tables are empty would read them from end to end, and is kept
    # until they are next analyzed; that takes a minute of growing at least.
    "-c enable_seqscan=off",
)


@lru_cache(maxsize=1024)
def translate(text: str) -> str:
    """The ledger's SQL in psycopg's form: named places, no hints for SQLite's planner."""
    highest = 0

    def place(match: re.Match[str]) -> str:
        nonlocal highest
        number = int(match[1]) if match[1] else highest + 1
        highest = max(highest, number)
        return f"%(p{number})s"

    text = _HINTS.sub("", text).replace("CROSS JOIN", "JOIN").replace("%", "%%")
    return _PLACE.sub(place, text)


class LimitedConnection(psycopg.Connection[tuple[Any, ...]]):
    """Gives a server up that does not answer within `limit_s`; None waits for ever."""

    limit_s: float | None = _ANSWER_TIMEOUT_S

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        try:
            return super().wait(gen, interval, timeout or self.limit_s)
        except errors._WaitTimeout as error:
            # What the server makes of the statement is not known, so this connection is over.
            self.close()
            raise psycopg.OperationalError("the server does not answer") from error


def connect(
    address: str, *, name: str, transaction_timeout_ms: int = TRANSACTION_TIMEOUT_MS
) -> LimitedConnection:
    """
    A connection in autocommit mode.

    Args:
        name: shown in `pg_stat_activity`.
        transaction_timeout_ms: 0 is none. Servers before 17 know none.
    Raises: psycopg.OperationalError.
    """
    raw = LimitedConnection.connect(
        address,
        autocommit=True,
        prepare_threshold=2,
        connect_timeout=CONNECT_TIMEOUT_S,
        application_name=name,
        options=" ".join(_SETTINGS),
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
    )
    raw.adapters.register_dumper(list, ArrayDumper)
    if raw.info.server_version >= _KNOWS_TRANSACTION_TIMEOUT:
        raw.execute(f"SET transaction_timeout = {transaction_timeout_ms}")
    return raw


class PostgresConnection:
    """A `Connection`; the raw one is replaced by `open` after it broke."""

    takes_arrays = True

    def __init__(self, address: str, *, name: str) -> None:
        self._address = address
        self._name = name
        self._raw: LimitedConnection | None = None

    def open(self) -> LimitedConnection:
        """The open connection, a new one where the old one broke. Raises: AWAY."""
        raw = self._raw
        if raw is None or raw.closed:
            raw = self._raw = connect(self._address, name=self._name)
        return raw

    def execute(self, text: str, parameters: Sequence[Any] = ()) -> Cursor:
        assert self._raw is not None
        named = {f"p{number}": value for number, value in enumerate(parameters, start=1)}
        try:
            return self._raw.execute(translate(text).encode(), named or None)
        except _OUTDATED:
            self._raw.close()
            raise

    def close(self) -> None:
        if self._raw is not None:
            self._raw.close()


class PendingCursor:
    """What a statement brought, waited for when it is looked at. Raises then what failed before."""

    def __init__(self, cursor: Cursor, arrived: Callable[[], None]) -> None:
        self._cursor = cursor
        self._wait = arrived

    @property
    def description(self) -> Sequence[Sequence[Any]] | None:
        return self._arrived().description

    @property
    def rowcount(self) -> int:
        return self._arrived().rowcount

    def fetchone(self) -> Any:
        return self._arrived().fetchone()

    def fetchall(self) -> list[Any]:
        return self._arrived().fetchall()

    def _arrived(self) -> Cursor:
        self._wait()
        return self._cursor


class PostgresWriterConnection(PostgresConnection):
    """
    The `WriterConnection`: connects again by itself, and numbers this writer among the others.

    Within a transaction statements are sent one behind the other, and waited for only where what
    they brought is looked at: on a busy machine each wait costs more than its statement.

    The number is an advisory lock of the session, so it is free once the session's last
    transaction is over, however the process ended.
    """

    def __init__(self, address: str, *, name: str) -> None:
        super().__init__(address, name=name)
        self.memory = WriterMemory(last_id=0, has_followers=True, node=0)
        self._transaction = ExitStack()
        self._pipeline: psycopg.Pipeline | None = None
        self._sent = 0
        self._arrived = 0

    def open(self) -> LimitedConnection:
        before = self._raw
        raw = super().open()
        if raw is not before:
            try:
                self.memory = self.memory.on_node(_take_node(raw))
            except BaseException:
                raw.close()
                raise
        return raw

    def begin(self) -> int:
        with suppress(psycopg.Error):  # of one that did not even begin
            self._leave_pipeline()
        raw = self.open()
        if raw.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
            raw.execute("ROLLBACK")
        self._pipeline = self._transaction.enter_context(raw.pipeline())
        raw.execute("BEGIN")
        row = raw.execute("SELECT relay_now_ms()").fetchone()
        assert row is not None
        now_ms: int = row[0]
        return now_ms

    def execute(self, text: str, parameters: Sequence[Any] = ()) -> Cursor:
        cursor = super().execute(text, parameters)
        if self._pipeline is None:
            return cursor
        self._sent += 1
        return PendingCursor(cursor, partial(self._wait_for, self._sent))

    def commit(self) -> None:
        # All has to have worked before: COMMIT of a transaction that failed is no error.
        self._wait_for(self._sent)
        assert self._raw is not None
        done = self._raw.execute("COMMIT")
        self._leave_pipeline()
        if done.statusmessage != "COMMIT":
            raise psycopg.OperationalError(f"not committed: {done.statusmessage}")

    def roll_back(self) -> None:
        raw = self._raw
        with suppress(psycopg.Error):
            self._leave_pipeline()
        if raw is None or raw.closed:
            return
        if raw.info.transaction_status is not psycopg.pq.TransactionStatus.INTRANS:
            # What was sent behind the statement that failed was passed over by the server, also
            # where it would have prepared a statement that psycopg now takes for prepared.
            raw.close()
            return
        try:
            raw.execute("ROLLBACK")
        except psycopg.Error:
            raw.close()

    def close(self) -> None:
        with suppress(psycopg.Error):
            self._leave_pipeline()
        super().close()

    def _wait_for(self, number: int) -> None:
        """Wait for the statement of this number. Raises: the first error of those sent."""
        if number > self._arrived:
            assert self._pipeline is not None
            self._pipeline.sync()
            self._arrived = self._sent

    def _leave_pipeline(self) -> None:
        """Wait for what is under way. Raises: an error of it."""
        self._pipeline = None
        self._arrived = self._sent
        self._transaction.close()

    def is_not_storable(self, error: Exception) -> bool:
        return isinstance(error, NOT_STORABLE)

    def is_concurrent_change(self, error: Exception) -> bool:
        return isinstance(
            error,
            ConcurrentChangeError
            | errors.UniqueViolation
            | errors.DeadlockDetected
            | errors.SerializationFailure,
        )


def unavailable(error: psycopg.Error) -> LedgerUnavailableError:
    """What the ledger's callers are told of an error of the driver."""
    detail = str(error).partition("\n")[0]
    if isinstance(error, AWAY) and error.sqlstate is None:
        return LedgerUnavailableError("not_reachable", detail)
    return LedgerUnavailableError("not_committed", detail)


def _take_node(raw: LimitedConnection) -> int:
    row = raw.execute(
        "SELECT number FROM generate_series(0, %(last)s) AS number "
        "WHERE pg_try_advisory_lock(%(lock)s, number) LIMIT 1",
        {"last": NODES - 1, "lock": _NODE_LOCK},
    ).fetchone()
    if row is None:
        raise psycopg.OperationalError(f"{NODES} writers are connected already")
    node: int = row[0]
    return node
