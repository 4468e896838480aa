"""An SQLite file that one process owns: its lock, its pragmas and the thread that commits to it."""

import asyncio
import fcntl
import os
import queue
import shutil
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

from service.domain.errors import RelayError, StartupError

I = TypeVar("I")  # noqa: E741  what is committed
R = TypeVar("R")  # what its commit returns
_Waiting = tuple[I, asyncio.Future[R]]

# A writer that waits longer for a lock than this is not alone on the file, which the lock forbids.
_BUSY_TIMEOUT_S: Final = 5.0
_FILE_BEGINNING: Final = b"SQLite format 3\x00"


class StorageError(RelayError):
    """Nothing of the batch was committed: disk full, read only, or broken; try again later."""


class QueueFullError(RelayError):
    """Too much waits for the next commit; try again later."""


class FileLock:
    """
    Keeps a second process off a database file, by an advisory lock on `<file>.lock`.

    The lock ends with the process, however it dies. The file names the holder for the message.
    """

    def __init__(self, path: Path, *, what: str) -> None:
        lock_path = path.with_name(path.name + ".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartupError("cannot_open", f"{what} {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 64, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise StartupError(
                "already_running",
                f"{what} {path} is in use by process {holder or 'unknown'}; "
                "an embedded file belongs to one process at a time",
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)


def connect(path: Path, *, what: str, read_only: bool = False) -> sqlite3.Connection:
    """
    Open `path` for use from any one thread at a time; transactions are begun by hand.

    WAL with `synchronous=FULL`: a commit that returned is on disk, whatever dies next.
    Raises: StartupError when it cannot be opened or is not a database.
    """
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}",
            uri=True,
            timeout=_BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        connection.execute("PRAGMA foreign_keys=OFF")
        if not read_only:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("PRAGMA mmap_size=0")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        raise StartupError("cannot_open", f"{what} {path}: {error}") from error
    return connection


def check_identity(path: Path, *, what: str, application_id: int, newest_version: int) -> None:
    """
    Refuse a file that another application or a newer version of this one wrote; change nothing.

    A file that is missing or empty passes. To be called before `connect`, which changes the file.
    Raises: StartupError.
    """
    try:
        with path.open("rb") as file:
            beginning = file.read(len(_FILE_BEGINNING))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartupError("cannot_open", f"{what} {path}: {error.strerror}") from error
    if not beginning:
        return
    # SQLite itself takes a file of less than a page for an empty one, and writes over it.
    if beginning != _FILE_BEGINNING:
        raise StartupError("cannot_open", f"{what} {path}: file is not a database")
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT_S
        )
        try:
            (found_id,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StartupError("cannot_open", f"{what} {path}: {error}") from error
    if found_id != application_id and (found_id or version or objects):
        raise StartupError(
            "other_database", f"{path} is an SQLite database, but not a {what}; name another file"
        )
    if found_id == application_id and version > newest_version:
        raise StartupError(
            "newer_schema",
            f"{what} {path} has schema version {version}, this program knows {newest_version}; "
            "start the newer program again",
        )


def free_bytes(path: Path) -> int | None:
    """Bytes free on the file system that holds `path`, None when it cannot be asked."""
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return None


class GroupCommitter(Generic[I, R]):
    """
    One thread that commits what concurrent tasks submit, everything that waits in one commit.

    `commit` runs on the thread with a batch and returns, per item, its result or the error of
    that item alone; when it raises, the whole batch failed and every item gets that error.
    Items reach the thread once per turn of the event loop: what became ready together is
    committed together, and the two threads do not fight over the interpreter for each item.
    The thread takes the next batch by itself, so the disk never waits for the event loop.
    `on_batch` runs on the event loop with the sizes of batch and queue, before the results are
    given out; `after_batch` runs on the thread once they are on their way (checkpoints).
    """

    def __init__(
        self,
        commit: Callable[[Sequence[I]], Sequence[R | RelayError]],
        *,
        name: str,
        max_batch: int,
        max_queue: int,
        on_batch: Callable[[int, int], None] = lambda size, waiting: None,
        after_batch: Callable[[], None] = lambda: None,
    ) -> None:
        self._commit = commit
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._on_batch = on_batch
        self._after_batch = after_batch
        self._loop = asyncio.get_running_loop()
        self._submitted: list[_Waiting[I, R]] = []
        self._unanswered: set[asyncio.Future[R]] = set()
        # One list per turn of the event loop, None at the end.
        self._handed_over: queue.SimpleQueue[list[_Waiting[I, R]] | None] = queue.SimpleQueue()
        self._closing = False
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: I) -> asyncio.Future[R]:
        """
        Queue `item` for the next commit; the future ends when it is committed or failed.

        Cancelling the future does not take the item back. Raises: QueueFullError at once.
        """
        if self._closing:
            raise StorageError("closed")
        if len(self._unanswered) >= self._max_queue:
            raise QueueFullError("queue_full", f"{self._max_queue} items wait already")
        future: asyncio.Future[R] = self._loop.create_future()
        self._unanswered.add(future)
        self._submitted.append((item, future))
        if len(self._submitted) == 1:
            self._loop.call_soon(self._hand_over)
        return future

    @property
    def waiting(self) -> int:
        """Items without an answer yet, those in the commit under way included."""
        return len(self._unanswered)

    async def close(self) -> None:
        """Commit what waits, then end the thread."""
        if not self._closing:
            self._closing = True
            self._hand_over()
            self._handed_over.put(None)
        await asyncio.shield(self._stopped)
        self._thread.join()

    def _hand_over(self) -> None:
        if self._submitted:
            self._handed_over.put(self._submitted)
            self._submitted = []

    def _run(self) -> None:
        try:
            self._commit_batches()
        finally:
            # Also when a bug ended the thread: nobody may wait for it for ever.
            self._loop.call_soon_threadsafe(self._end)

    def _commit_batches(self) -> None:
        waiting: list[_Waiting[I, R]] = []
        more = True
        while more or waiting:
            while more and (not waiting or not self._handed_over.empty()):
                handed_over = self._handed_over.get()
                if handed_over is None:
                    more = False
                else:
                    waiting += handed_over
            if waiting:
                self._commit_batch(waiting[: self._max_batch])
                del waiting[: self._max_batch]

    def _commit_batch(self, batch: Sequence["_Waiting[I, R]"]) -> None:
        results: Sequence[R | BaseException]
        try:
            results = self._commit([item for item, _ in batch])
        except sqlite3.Error as error:
            failure = StorageError("not_committed", str(error))
            failure.__cause__ = error
            results = [failure] * len(batch)
        except BaseException as error:  # noqa: BLE001  handed to every waiting task
            results = [error] * len(batch)
        self._loop.call_soon_threadsafe(self._resolve, batch, results)
        self._after_batch()

    def _resolve(
        self, batch: Sequence["_Waiting[I, R]"], results: Sequence[R | BaseException]
    ) -> None:
        self._unanswered.difference_update(future for _, future in batch)
        self._on_batch(len(batch), len(self._unanswered))
        for (_, future), result in zip(batch, results, strict=True):
            if future.cancelled():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _end(self) -> None:
        self._closing = True
        for future in self._unanswered:
            if not future.cancelled():
                future.set_exception(StorageError("closed"))
        self._unanswered.clear()
        self._stopped.set_result(None)
