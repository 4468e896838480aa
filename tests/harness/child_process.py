"""A program of the tests as a process of its own, with its output in a file."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import aiohttp

from tests.harness.waiting import until

ROOT: Final = Path(__file__).resolve().parents[2]
_STOP_S: Final = 30.0


class ProcessEndedError(AssertionError):
    """The process that was waited for is over."""


class ChildProcess:
    """
    `python -m <module> <arguments>` with nothing of this process' RELAY_ environment.

    Leaving the context kills what still runs.
    """

    def __init__(self, module: str, *, log_path: Path) -> None:
        self._module = module
        self.log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def process_id(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def spawn(self, arguments: Sequence[str], *, environment: Mapping[str, str]) -> None:
        """Start it; what it writes is appended to the log file."""
        assert not self.is_running, "it runs already"
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("RELAY_")
        }
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, *arguments],
                cwd=ROOT,
                env={**inherited, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def exit_code(self) -> int | None:
        """The code it ended with, negative for a signal; None while it runs."""
        assert self._process is not None, "not started"
        return self._process.poll()

    async def wait_exit(self, *, timeout_s: float = _STOP_S) -> int:
        """The exit code once it ended."""

        def has_ended() -> bool:
            return self.exit_code() is not None

        await until(has_ended, what=f"{self._module} ends", timeout_s=timeout_s)
        code = self.exit_code()
        assert code is not None
        return code

    async def stop(self) -> int:
        """Ask it to stop with SIGTERM; the exit code."""
        self.send_signal(signal.SIGTERM)
        return await self.wait_exit()

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "not started"
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it with SIGKILL, if it runs."""
        if self._process is not None and self.is_running:
            self._process.kill()
            self._process.wait()

    def log_text(self) -> str:
        """All it wrote, over all starts."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    async def wait_answer(self, url: str, *, timeout_s: float = 60.0) -> None:
        """
        Wait until `url` answers 200.

        Raises: ProcessEndedError with the end of the log when it ends; AssertionError when it
        takes too long.
        """
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:

            async def answers() -> bool:
                if (code := self.exit_code()) is not None:
                    raise ProcessEndedError(
                        f"{self._module} ended with {code}:\n{self.log_text()[-4000:]}"
                    )
                try:
                    async with session.get(url) as response:
                        return response.status == 200
                except (aiohttp.ClientError, TimeoutError, ConnectionError):
                    return False

            await until(answers, what=f"{url} answers 200", timeout_s=timeout_s)
