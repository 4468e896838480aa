"""
The sandbox's books: one SQLite file, used by one thread that commits requests in groups.

An answer is given after its group was committed, so what was answered survives SIGKILL
(WAL, `synchronous=NORMAL`); a power cut may take the last moments.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], Any]

# A table that is missing is made when the file is opened; so what is new gets a table of its
# own, and tables that older files may hold keep their columns.
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tallies (name TEXT PRIMARY KEY, n INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS contacts (
    id INTEGER PRIMARY KEY, contact_key TEXT NOT NULL UNIQUE, body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS products (external_id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS stores (external_id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS custom_fields (
    scope TEXT NOT NULL, id INTEGER NOT NULL, name TEXT NOT NULL, type TEXT NOT NULL,
    PRIMARY KEY (scope, id), UNIQUE (scope, name)
);
CREATE TABLE IF NOT EXISTS members (
    id INTEGER PRIMARY KEY, card_code TEXT NOT NULL UNIQUE, contact INTEGER,
    program_id INTEGER NOT NULL, joined_at TEXT NOT NULL, birthday TEXT
);
CREATE INDEX IF NOT EXISTS members_by_contact ON members (contact);
CREATE TABLE IF NOT EXISTS orders (
    id INTEGER PRIMARY KEY, external_id TEXT NOT NULL UNIQUE, contact INTEGER NOT NULL,
    completed INTEGER NOT NULL, created_at TEXT NOT NULL, updated_at TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS orders_by_contact ON orders (contact);
CREATE TABLE IF NOT EXISTS credits (
    id INTEGER PRIMARY KEY, card_code TEXT NOT NULL, context TEXT NOT NULL,
    nq_points INTEGER NOT NULL, q_points INTEGER NOT NULL, is_final INTEGER NOT NULL,
    idempotency_key TEXT, event_date TEXT NOT NULL, created_at TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS credits_by_key ON credits (idempotency_key);
CREATE INDEX IF NOT EXISTS credits_by_context ON credits (context);
CREATE TABLE IF NOT EXISTS points (
    id INTEGER PRIMARY KEY, card_code TEXT NOT NULL, event_type TEXT NOT NULL,
    points_type TEXT NOT NULL, points INTEGER NOT NULL, event_date TEXT NOT NULL,
    booked_at REAL NOT NULL, message TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS points_by_card ON points (card_code);
CREATE TABLE IF NOT EXISTS member_details (
    member INTEGER PRIMARY KEY, expires_at TEXT, fields TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS rewards (
    id INTEGER PRIMARY KEY, external_id TEXT NOT NULL UNIQUE, body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS grants (
    id INTEGER PRIMARY KEY, uuid TEXT NOT NULL, reward INTEGER NOT NULL,
    card_code TEXT NOT NULL, quantity INTEGER NOT NULL, nq_points INTEGER NOT NULL,
    reason TEXT NOT NULL, idempotency_key TEXT, grant_date TEXT NOT NULL,
    granted_at REAL NOT NULL, created_at TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS grants_by_key ON grants (idempotency_key);
CREATE INDEX IF NOT EXISTS grants_by_card ON grants (card_code);
CREATE INDEX IF NOT EXISTS grants_by_reward ON grants (reward);
CREATE INDEX IF NOT EXISTS grants_by_reason ON grants (reason);
CREATE TABLE IF NOT EXISTS attributions (
    id INTEGER PRIMARY KEY, external_id TEXT NOT NULL UNIQUE, grant_id INTEGER NOT NULL,
    expires_at TEXT, burned_at TEXT, store_id TEXT, burn_reason TEXT
);
CREATE INDEX IF NOT EXISTS attributions_by_grant ON attributions (grant_id);
"""


def count_up(db: sqlite3.Connection, tally: str) -> None:
    """Adds one to a named tally; in the same transaction as what it counts."""
    db.execute(
        "INSERT INTO tallies VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET n = n + 1", (tally,)
    )


@dataclass(slots=True)
class _Group:
    jobs: list[Job]
    done: asyncio.Future[list[Any]]


class Books:
    """
    Runs functions on the one connection, each group of waiting ones in one transaction.

    A function that raises takes its whole group back, so functions answer refusals by value
    and raise only for bugs and a broken file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sandbox-books")
        self._db: sqlite3.Connection | None = None
        self._waiting: _Group | None = None
        self._busy = False

    async def open(self) -> None:
        """Opens or creates the file; its directory is made when missing."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connect)

    async def close(self) -> None:
        """Closes the file after what was asked before; the books take no more work."""
        loop = asyncio.get_running_loop()
        while self._waiting is not None:
            await asyncio.wait([self._waiting.done])
        await loop.run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """What `job` returns, after its transaction was committed."""
        loop = asyncio.get_running_loop()
        if self._waiting is None:
            self._waiting = _Group([], loop.create_future())
        group = self._waiting
        place = len(group.jobs)
        group.jobs.append(job)
        if not self._busy:
            self._start(loop)
        # Shielded: the others of the group must not lose their answer with one caller.
        results = await asyncio.shield(group.done)
        result: T = results[place]
        return result

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        group, self._waiting = self._waiting, None
        if group is None:
            return
        self._busy = True
        work = loop.run_in_executor(self._thread, self._commit, group.jobs)
        work.add_done_callback(partial(self._finish, loop, group))

    def _finish(
        self, loop: asyncio.AbstractEventLoop, group: _Group, work: asyncio.Future[list[Any]]
    ) -> None:
        self._busy = False
        self._start(loop)
        error = work.exception()
        if error is None:
            group.done.set_result(work.result())
        else:
            group.done.set_exception(error)

    def _connect(self) -> None:
        Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._path, isolation_level=None, cached_statements=256)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA busy_timeout = 5000")
        db.executescript(SCHEMA)
        self._db = db

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _commit(self, jobs: list[Job]) -> list[Any]:
        if self._db is None:
            raise RuntimeError("the sandbox's books are closed")
        # `with` commits, or rolls back when a job raises.
        with self._db as db:
            db.execute("BEGIN")
            return [job(db) for job in jobs]
