"""The slow reader of Splio's points ledger."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from consumers.seen import SeenReader
from service.domain.errors import RetryableError
from service.domain.ports import CreditPage, Operation, Step
from tests.fakes.duty import FakeDuty
from tests.fakes.ledger import FakeLedger
from tests.fakes.splio import FakeSplio
from tests.fakes.waiting import until


@asynccontextmanager
async def running(ledger: FakeLedger, splio: FakeSplio) -> AsyncIterator[deque[Step]]:
    steps: deque[Step] = deque()
    stop = asyncio.Event()
    reader = SeenReader(
        ledger, splio, duty=FakeDuty(), tenant="main", step=steps.append, every_s=0, idle_s=0
    )
    task = asyncio.create_task(reader.run(stop))
    try:
        yield steps
    finally:
        splio.go.clear()
        await until(lambda: splio.under_way or task.done())
        stop.set()
        await task


def asked_after(splio: FakeSplio) -> list[str]:
    return [call.path for call in splio.calls]


@pytest.fixture(autouse=True)
def idle(splio: FakeSplio) -> None:
    splio.default[Operation.LIST_POINTS] = CreditPage((), None, is_last=True)


async def test_our_credits_are_marked_page_by_page(ledger: FakeLedger, splio: FakeSplio) -> None:
    splio.answer(
        Operation.LIST_POINTS,
        CreditPage(("main:earn:1", "till 7", "other:earn:1"), "c1", is_last=False),
        CreditPage(("main:earn:2", "mainly:earn:3", ""), "c2", is_last=True),
    )

    async with running(ledger, splio) as steps:
        await until(lambda: ledger.cursor == "c2")
        await until(lambda: len(splio.calls) == 3)

    assert ledger.seen == {"main:earn:1", "main:earn:2"}
    assert asked_after(splio)[:3] == ["", "c1", "c2"]
    assert list(steps) == [Step.CREDITS_SEEN] * 2


async def test_it_goes_on_where_a_former_run_stopped(ledger: FakeLedger, splio: FakeSplio) -> None:
    ledger.cursor = "c7"

    async with running(ledger, splio):
        await until(lambda: splio.calls)

    assert asked_after(splio)[0] == "c7"


@pytest.mark.parametrize("contexts", [(), ("main:earn:9",)])
async def test_the_end_of_the_list_does_not_begin_it_anew(
    ledger: FakeLedger, splio: FakeSplio, contexts: tuple[str, ...]
) -> None:
    """Splio says the end of a list by a cursor that is null."""
    ledger.cursor = "c7"
    splio.answer(Operation.LIST_POINTS, CreditPage(contexts, None, is_last=True))

    async with running(ledger, splio):
        await until(lambda: len(splio.calls) == 2)

    assert ledger.cursor == "c7"
    assert ledger.seen == set(contexts)


async def test_errors_are_waited_out(ledger: FakeLedger, splio: FakeSplio) -> None:
    page = CreditPage(("main:earn:1",), "c1", is_last=True)
    splio.answer(Operation.LIST_POINTS, RetryableError("not_connected"), page, page)
    ledger.unavailable.update(credits_cursor=1, mark_seen=1)

    async with running(ledger, splio):
        await until(lambda: ledger.cursor == "c1")

    assert ledger.seen == {"main:earn:1"}


async def test_stop_cuts_a_page_off(ledger: FakeLedger, splio: FakeSplio) -> None:
    splio.go.clear()

    async with running(ledger, splio):
        await until(lambda: splio.under_way)

    assert splio.under_way == 0 and ledger.cursor is None
