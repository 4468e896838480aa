"""What benchmarks stand on: the machine, a folder on its disk and the processes beside."""

import asyncio
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Final

import orjson
import psutil

from service.stores import Role
from tests.harness.child_process import ROOT, ChildProcess
from tests.harness.sandbox_process import SandboxProcess

EMBEDDED: Final[Mapping[str, str]] = MappingProxyType({})

# Short, so that what a kill left in doubt is soon looked up.
_SERVICE: Final = {
    "RELAY_LEASE_MARGIN": "1s",
    "RELAY_VISIBLE_AFTER": "orders=1s,credits=1s",
    "RELAY_SPLIO_API_KEY": "sandbox-api-key",
    "RELAY_WEBHOOK_CREDENTIALS": "scayle:sandbox",
    "RELAY_LOG_FORMAT": "json",
}


def environment(
    folder: Path, splio_url: str, place: Mapping[str, str] = EMBEDDED
) -> dict[str, str]:
    """
    Settings of a service on any ports, with no limits.

    `place` names log and ledger where they are not files in `folder`.
    """
    return {
        "RELAY_HTTP_PORT": "0",
        "RELAY_OPERATIONS_PORT": "0",
        "RELAY_LOG_URL": f"sqlite:///{folder}/log.db",
        "RELAY_LEDGER_URL": f"sqlite:///{folder}/ledger.db",
        "RELAY_SPLIO_URL": splio_url,
        "RELAY_SPLIO_LIMITS": "off",
        "RELAY_REQUEST_TIMEOUT": "3s",
        "RELAY_DISK_RESERVE": "1MiB",
        **place,
    }


def machine() -> dict[str, Any]:
    """Where the figures were taken."""
    return {
        "processor": processor(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@contextmanager
def working_folder() -> Iterator[Path]:
    """A folder of its own on the disk of the checkout: /tmp may be memory, where fsync is free."""
    data = ROOT / "data"
    data.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=data, prefix="bench-") as folder:
        yield Path(folder)


@contextmanager
def started(module: str, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A Python module in its own process until the context ends, and the first line it prints."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def run_module(module: str, *arguments: str) -> dict[str, Any]:
    """Run a Python module to its end; the JSON object that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    result: dict[str, Any] = orjson.loads(done.stdout)
    return result


@contextmanager
def responder() -> Iterator[str]:
    """The bare responder in its own process; its address."""
    with started("tests.benchmarks.responder") as (port, _):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def sandbox_process(folder: Path, **settings: Any) -> Iterator[SandboxProcess]:
    """
    The sandbox in its own process, with its books in `folder`; without limits unless given.

    A repeated idempotency key books again, so that a second credit would really count.
    """
    with SandboxProcess(folder, **settings) as sandbox:
        sandbox.start()
        asyncio.run(sandbox.wait_ready())
        yield sandbox


class RelayProcess(ChildProcess):
    """
    `loyalty-relay serve`, or another role, on its files in `folder` unless `settings` name
    another place; started anew it goes on there. `name` tells several in one folder apart.
    """

    def __init__(
        self,
        folder: Path,
        splio_url: str,
        settings: Mapping[str, str],
        *,
        role: Role = Role.SERVE,
        name: str = "service",
    ) -> None:
        super().__init__("service", log_path=folder / f"{name}.log")
        self._environment = {**environment(folder, splio_url), **_SERVICE, **settings}
        self._role = role

    def start(self) -> None:
        self.spawn([self._role.value], environment=self._environment)
