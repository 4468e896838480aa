"""Shapes in the ledger: what one process saw, another tells, also after a restart."""

import asyncio
from collections.abc import Sequence

from service.domain.errors import LedgerUnavailableError
from service.web.shape_keeping import ShapeKeeper
from service.web.shapes import ShapeLog
from tests.fakes.clock import FakeClock

WEBHOOK = "webhook:order-confirmed"
CAPTURE = "loyalty:capture"


class FakeShapesLedger:
    """Keeps shapes as the ledger does; `is_away` makes it raise, `writes` are the sources."""

    def __init__(self) -> None:
        self.is_away = False
        self.writes: list[str] = []
        self._rows: dict[str, tuple[str, int]] = {}

    async def record_shapes(self, shapes: Sequence[tuple[str, str, int]]) -> None:
        self._refuse_when_away()
        for source, shape, at_ms in shapes:
            self.writes.append(source)
            if at_ms > self._rows.get(source, ("", -1))[1]:
                self._rows[source] = (shape, at_ms)

    async def shapes(self) -> Sequence[str]:
        self._refuse_when_away()
        return [shape for _, (shape, _) in sorted(self._rows.items())]

    def _refuse_when_away(self) -> None:
        if self.is_away:
            raise LedgerUnavailableError("not_reachable")


class Process:
    """A log and its keeper, as one process has them."""

    def __init__(self, clock: FakeClock) -> None:
        self.log = ShapeLog(clock)
        self.keeper = ShapeKeeper(self.log, every_s=60)

    async def stop(self) -> None:
        """As asked to stop, when what is news is stored."""
        stop = asyncio.Event()
        stop.set()
        await self.keeper.run(stop)

    async def fields(self) -> tuple[dict[str, list[str]], bool]:
        seen = await self.keeper.seen()
        return {shape.source: list(shape.fields) for shape in seen.shapes}, seen.is_shared


async def test_shapes_survive_a_restart_and_the_youngest_of_each_source_is_told() -> None:
    clock, ledger = FakeClock(), FakeShapesLedger()
    first, second = Process(clock), Process(clock)
    with first.keeper.kept_in(ledger), second.keeper.kept_in(ledger):
        first.log.note(WEBHOOK, body=b'{"old": 1}')
        first.log.note(CAPTURE, body=b'{"amount": 1}')
        await first.stop()
        clock.advance(1)
        second.log.note(WEBHOOK, body=b'{"new": 1}')
        assert await second.fields() == ({CAPTURE: ["amount"], WEBHOOK: ["new"]}, True)
        await second.stop()
    again = Process(clock)
    with again.keeper.kept_in(ledger):
        assert await again.fields() == ({CAPTURE: ["amount"], WEBHOOK: ["new"]}, True)


async def test_without_a_ledger_a_process_tells_its_own_and_says_so() -> None:
    ledger = FakeShapesLedger()
    process = Process(FakeClock())
    process.log.note(WEBHOOK, body=b'{"own": 1}')
    assert await process.fields() == ({WEBHOOK: ["own"]}, False)
    with process.keeper.kept_in(ledger):
        assert (await process.fields())[1]
        ledger.is_away = True
        assert await process.fields() == ({WEBHOOK: ["own"]}, False)
    ledger.is_away = False
    assert await process.fields() == ({WEBHOOK: ["own"]}, False)


async def test_what_could_not_be_stored_is_stored_later_and_what_is_stored_is_not_again() -> None:
    clock, ledger = FakeClock(), FakeShapesLedger()
    process = Process(clock)
    process.log.note(WEBHOOK, body=b"{}")
    with process.keeper.kept_in(ledger):
        ledger.is_away = True
        await process.stop()
        assert ledger.writes == []
        ledger.is_away = False
        await process.stop()
        await process.stop()
        assert ledger.writes == [WEBHOOK]
        clock.advance(60)
        process.log.note(WEBHOOK, body=b"{}")
        await process.stop()
        assert ledger.writes == [WEBHOOK, WEBHOOK]
