"""The service as a process that can be killed at a labelled step."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from service.domain.ports import Step
from service.stores import Role
from tests.harness.child_process import ChildProcess, ProcessEndedError
from tests.harness.place import Place, files_in
from tests.harness.ports import free_port

USER: Final = "scayle"
PASSWORD: Final = "crash-test"
OPERATOR_PASSWORD: Final = "operator-crash-test"

# Short, as beside the built-in sandbox; no limits, as the tests of limits are elsewhere.
_SHORT_WAITS: Final = {
    "RELAY_REQUEST_TIMEOUT": "1s",
    "RELAY_LEASE_MARGIN": "1s",
    "RELAY_VISIBLE_AFTER": "orders=1s,credits=2s,grants=2s",
    "RELAY_SPLIO_LIMITS": "off",
    "RELAY_DISK_RESERVE": "1MiB",
    "RELAY_LOG_FORMAT": "json",
    "RELAY_LOG_LEVEL": "info",
}


class ServiceProcess(ChildProcess):
    """
    One process of the service; it keeps its ports over restarts.

    Started by `tests.faults.launcher`, which kills it at a step when asked to.

    Args:
        directory: of its output, and of log and ledger where no `place` is given.
        place: where log and ledger are.
        role: serve, receive or consume.
        keeps_log: whether an embedded log keeps what was read, as it does for a week outside of
            tests.
        name: tells the processes of one test apart.
    """

    def __init__(
        self,
        directory: Path,
        *,
        splio_url: str,
        settings: Mapping[str, str] | None = None,
        place: Place | None = None,
        role: Role = Role.SERVE,
        name: str = "service",
        keeps_log: bool = False,
    ) -> None:
        super().__init__("tests.faults.launcher", log_path=directory / f"{name}.log")
        self.directory = directory
        self.place = place or files_in(directory)
        self._role = role
        self._keeps_log = keeps_log
        self._marker_path = directory / f"{name}.killed"
        self._http_port = free_port()
        self._operations_port = free_port()
        self.environment = {
            **_SHORT_WAITS,
            "RELAY_HTTP_PORT": str(self._http_port),
            "RELAY_OPERATIONS_PORT": str(self._operations_port),
            **self.place.environment,
            "RELAY_SPLIO_URL": splio_url,
            "RELAY_SPLIO_API_KEY": "sandbox-api-key",
            "RELAY_WEBHOOK_CREDENTIALS": f"{USER}:{PASSWORD}",
            "RELAY_OPERATIONS_PASSWORD": OPERATOR_PASSWORD,
            **(settings or {}),
        }

    @property
    def public_url(self) -> str:
        return f"http://127.0.0.1:{self._http_port}"

    @property
    def webhook_url(self) -> str:
        return f"{self.public_url}/webhooks/scayle"

    @property
    def operations_url(self) -> str:
        return f"http://127.0.0.1:{self._operations_port}"

    def start(
        self,
        *,
        kill_at: Step | None = None,
        freeze_at: Step | None = None,
        nth: int = 1,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """
        Start it.

        Args:
            kill_at: the step at which it kills itself, the `nth` time that it gets there.
            freeze_at: the same, but it stands still until it gets SIGCONT.
            settings: what differs from before, for this start.
        """
        self._marker_path.unlink(missing_ok=True)
        arguments = [self._role.value]
        for option, step in (("--kill-at", kill_at), ("--freeze-at", freeze_at)):
            if step is not None:
                arguments += [option, step, str(nth), str(self._marker_path)]
        if self._keeps_log:
            arguments.append("--keep-log")
        self.spawn(arguments, environment={**self.environment, **(settings or {})})

    async def wait_ready(self) -> None:
        await self.wait_answer(f"{self.operations_url}/readyz")

    async def wait_ready_or_end(self) -> None:
        """Wait until it is ready or has killed itself before it was."""
        with suppress(ProcessEndedError):  # it may be started anew already
            await self.wait_ready()

    def killed_at(self) -> str | None:
        """The step and count at which it killed itself last, such as `request_sent 12`."""
        return self._marker_path.read_text() if self._marker_path.exists() else None

    def is_frozen(self) -> bool:
        """Whether every thread of it stands still."""
        return psutil.Process(self.process_id).status() == psutil.STATUS_STOPPED
