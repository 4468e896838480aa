"""What breaks during a soak, one thing after the other."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

from tests.benchmarks.distributed import Servers
from tests.benchmarks.surroundings import RelayProcess
from tests.harness.sandbox_process import SandboxProcess

_FROZEN_S = 5.0
_AWAY_S = 2.0


@dataclass(frozen=True, slots=True)
class Fault:
    """A name for people, and what is done."""

    name: str
    strike: Callable[[], Awaitable[None]]


class Faults:
    """Strikes in turn until cancelled; `struck` counts by name."""

    def __init__(self, servers: Servers, sandbox: SandboxProcess, victim: RelayProcess) -> None:
        self._servers = servers
        self._sandbox = sandbox
        self._victim = victim
        self.struck: dict[str, int] = {}
        self.last = "none yet"

    async def run(self, *, every_s: float) -> None:
        """
        Strike, and wait `every_s` before the next. A fault once begun is brought to its end.
        """
        for fault in cycle(self._all()):
            await asyncio.sleep(every_s)
            self.last = fault.name
            self.struck[fault.name] = self.struck.get(fault.name, 0) + 1
            striking = asyncio.ensure_future(fault.strike())
            try:
                await asyncio.shield(striking)
            except asyncio.CancelledError:
                await striking
                raise

    def _all(self) -> Sequence[Fault]:
        return (
            Fault("replies lost", self._lose_replies),
            Fault("broker restarted", self._restart_broker),
            Fault("429", lambda: self._sandbox.add_fault(operation="*", fault="429", count=20)),
            Fault("broker frozen", self._freeze_broker),
            Fault("503 and resets", self._refuse),
            Fault("PostgreSQL restarted", self._restart_postgres),
            Fault(
                "Splio away",
                lambda: self._sandbox.add_fault(operation="*", fault="outage", count=1, seconds=3),
            ),
            Fault("consumer killed", self._kill_consumer),
            Fault(
                "slow replies",
                lambda: self._sandbox.add_fault(
                    operation="credit", fault="delay", seconds=0.5, count=50
                ),
            ),
        )

    async def _restart_broker(self) -> None:
        await asyncio.to_thread(self._servers.kafka.stop)
        await asyncio.sleep(_AWAY_S)
        await asyncio.to_thread(self._servers.kafka.restart)

    async def _freeze_broker(self) -> None:
        self._servers.kafka.freeze()
        try:
            await asyncio.sleep(_FROZEN_S)
        finally:
            self._servers.kafka.thaw()

    async def _restart_postgres(self) -> None:
        await asyncio.to_thread(self._servers.postgres.stop)
        await asyncio.sleep(_AWAY_S)
        await asyncio.to_thread(self._servers.postgres.start)

    async def _kill_consumer(self) -> None:
        self._victim.kill()
        await asyncio.sleep(_AWAY_S)
        self._victim.start()

    async def _lose_replies(self) -> None:
        await self._sandbox.add_fault(operation="credit", fault="lost_reply", count=5)
        await self._sandbox.add_fault(operation="order.create", fault="lost_reply", count=5)

    async def _refuse(self) -> None:
        await self._sandbox.add_fault(operation="*", fault="status", status=503, count=5)
        await self._sandbox.add_fault(operation="*", fault="reset", count=5)
