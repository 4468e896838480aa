"""Processes of the service on one log and one ledger, and the Splio that they talk to."""

import re
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson

from service.sandbox.splio import SplioSandbox
from service.stores import Role
from tests.harness.child_process import ChildProcess
from tests.harness.judgement import assert_exact, wait_settled
from tests.harness.load import Load
from tests.harness.place import Place
from tests.harness.relay import Answer, running_sandbox
from tests.harness.service_process import OPERATOR_PASSWORD, PASSWORD, USER, ServiceProcess

_VISIBLE_AFTER_S: Final = 0.3  # at the sandbox, well within what the service allows for
_ANSWER_S: Final = 30.0


class Fleet:
    """Made by `running_fleet`, which kills what still runs at the end."""

    def __init__(
        self,
        directory: Path,
        place: Place,
        sandbox: SplioSandbox,
        session: aiohttp.ClientSession,
        stack: ExitStack,
    ) -> None:
        self.directory = directory
        self.place = place
        self.sandbox = sandbox
        self.processes: list[ServiceProcess] = []
        self._session = session
        self._stack = stack
        self._commands = 0

    def add(
        self,
        role: Role,
        *,
        name: str | None = None,
        settings: Mapping[str, str] | None = None,
        keeps_log: bool = False,
    ) -> ServiceProcess:
        """One more process, not started."""
        process = ServiceProcess(
            self.directory,
            splio_url=self.sandbox.url,
            settings=settings,
            place=self.place,
            role=role,
            name=name or f"{role}-{len(self.processes)}",
            keeps_log=keeps_log,
        )
        self.processes.append(self._stack.enter_context(process))
        return process

    async def started(
        self, role: Role, *, name: str | None = None, settings: Mapping[str, str] | None = None
    ) -> ServiceProcess:
        """One more process, ready."""
        process = self.add(role, name=name, settings=settings)
        process.start()
        await process.wait_ready()
        return process

    async def command(
        self, *arguments: str, settings: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """The exit code and the output of `loyalty-relay <arguments>`."""
        self._commands += 1
        log_path = self.directory / f"command-{self._commands}.log"
        with ChildProcess("service", log_path=log_path) as process:
            nobody = ServiceProcess(
                self.directory, splio_url=self.sandbox.url, place=self.place, name="nobody"
            )
            process.spawn(arguments, environment={**nobody.environment, **(settings or {})})
            code = await process.wait_exit(timeout_s=60)
            return code, process.log_text()

    async def post(self, process: ServiceProcess, envelope: Mapping[str, Any]) -> Answer:
        """One webhook, once."""
        async with self._session.post(
            process.webhook_url,
            data=orjson.dumps(envelope),
            headers={"Authorization": aiohttp.encode_basic_auth(USER, PASSWORD)},
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def readiness(self, process: ServiceProcess) -> Answer:
        """What `/readyz` says now."""
        async with self._session.get(f"{process.operations_url}/readyz") as response:
            return Answer(response.status, response.headers, await response.read())

    async def operate(self, process: ServiceProcess, method: str, path: str) -> Answer:
        """A call of the operations API, as the operator."""
        async with self._session.request(
            method,
            f"{process.operations_url}{path}",
            headers={"Authorization": aiohttp.encode_basic_auth("operator", OPERATOR_PASSWORD)},
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def metric(self, process: ServiceProcess, sample: str) -> float:
        """The value of a sample as it is written, labels included."""
        async with self._session.get(f"{process.operations_url}/metrics") as response:
            found = re.search(rf"^{re.escape(sample)} (\S+)$", await response.text(), re.M)
            assert found is not None, f"there is no {sample}"
            return float(found[1])

    def log_text(self) -> str:
        """The end of what every process wrote."""
        return "\n".join(
            f"--- {process.log_path.name}\n{process.log_text()[-3000:]}"
            for process in self.processes
        )

    async def rest(self, *loads: Load, timeout_s: float = 60.0) -> None:
        """Wait until all of the loads is settled."""
        await wait_settled(
            self.place, accepted_by(*loads), log_text=self.log_text, timeout_s=timeout_s
        )

    async def assert_exact(
        self,
        *loads: Load,
        posted_twice: int = 0,
        set_aside: Collection[tuple[str, str]] = (),
    ) -> None:
        """The loads are at Splio once, and nothing else is; see `judgement.assert_exact`."""
        await assert_exact(
            self.place.ledger,
            self.sandbox,
            [envelope for load in loads for envelope in load.envelopes],
            accepted=accepted_by(*loads),
            posted_twice=posted_twice,
            set_aside=set_aside,
        )

    async def stop(self) -> None:
        """Stop every process that runs, in order; each ends as one that was asked to."""
        running = [process for process in self.processes if process.is_running]
        for process in running:
            assert await process.stop() == 0, process.log_text()[-4000:]


def accepted_by(*loads: Load) -> set[str]:
    """Ids of the orders that were answered 200."""
    return {order.order_id for load in loads for order in load.report.accepted}


def lines(process: ChildProcess, event: str) -> Iterator[dict[str, Any]]:
    """The lines of a process about `event`, oldest first."""
    for text in process.log_text().splitlines():
        if text.startswith("{"):
            line: dict[str, Any] = orjson.loads(text)
            if line["event"] == event:
                yield line


@asynccontextmanager
async def running_fleet(
    directory: Path, place: Place, **sandbox_settings: Any
) -> AsyncIterator[Fleet]:
    """
    No process yet, and a sandbox in this one; see `running_sandbox` for its settings.

    The books are exact only if nothing was booked twice: a repeated key books again.
    """
    chosen = {"points_visible_after_s": _VISIBLE_AFTER_S, **sandbox_settings}
    async with (
        running_sandbox(directory, **chosen) as sandbox,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as session,
    ):
        with ExitStack() as stack:
            yield Fleet(directory, place, sandbox, session, stack)
