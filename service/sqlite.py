"""An SQLite file that one process owns: its lock, its pragmas and what it must be."""

import fcntl
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Final

from service.domain.errors import StartupError

# A writer that waits longer for a lock than this is not alone on the file, which the lock forbids.
_BUSY_TIMEOUT_S: Final = 5.0
_FILE_BEGINNING: Final = b"SQLite format 3\x00"


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
