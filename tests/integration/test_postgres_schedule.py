"""P6: processes that share one address' budget through PostgreSQL, in real time."""

import asyncio
import time
from contextlib import AsyncExitStack

from service.domain.clock import SteadyClock
from service.domain.effects import Lane
from service.ledger.postgres_schedule import open_postgres_schedule
from service.ledger.postgres_schema import migrate
from service.splio.limiter import Limiter
from service.splio.schedule import rate_of
from tests.harness.postgres_server import PostgresServer
from tests.harness.waiting import until

_LANE = Lane.OTHER
_LIMIT = 20.0
_FAR_S = 1e9


async def written_by(address: str, *, seconds: float, server: PostgresServer | None) -> list[float]:
    """When two limiters, each with schedule and connection of its own, wrote their requests."""
    written: list[float] = []
    clock = SteadyClock()
    ends_s = time.monotonic() + seconds
    async with AsyncExitStack() as stack:

        async def keep_busy() -> None:
            schedule = await stack.enter_async_context(
                open_postgres_schedule(address, {_LANE: rate_of(_LIMIT).interval_s}, clock)
            )
            limiter = Limiter({_LANE: _LIMIT}, clock, schedule=schedule)

            async def send() -> None:
                while time.monotonic() < ends_s:
                    grant = await limiter.grant(_LANE)
                    await limiter.pass_gate(grant, deadline_s=_FAR_S)
                    written.append(time.monotonic())

            await asyncio.gather(*(send() for _ in range(4)))

        async def disturb() -> None:
            if server is None:
                return
            frozen_s = ends_s - seconds * 2 / 3
            await until(lambda: time.monotonic() >= frozen_s, what="some were sent")
            server.freeze()
            await until(lambda: time.monotonic() >= frozen_s + seconds / 6, what="a pause")
            server.thaw()

        await asyncio.gather(keep_busy(), keep_busy(), disturb())
    return written


def most_in_a_second(written: list[float]) -> int:
    return max(sum(1 for at in written if start <= at < start + 1.0) for start in written)


async def test_two_processes_keep_the_limit_and_use_it(postgres_server: PostgresServer) -> None:
    address = postgres_server.new_database()
    migrate(address)
    written = await written_by(address, seconds=4.0, server=None)
    assert most_in_a_second(written) <= _LIMIT
    # 96 % where nothing else runs, as slots are a little further apart; machines differ.
    assert len(written) >= 0.5 * _LIMIT * 4.0, len(written)


async def test_a_database_that_stands_still_lets_no_burst_through(
    private_postgres: PostgresServer,
) -> None:
    address = private_postgres.new_database()
    migrate(address)
    written = await written_by(address, seconds=6.0, server=private_postgres)
    assert most_in_a_second(written) <= _LIMIT
    assert len(written) >= 0.4 * _LIMIT * 5.0, len(written)
