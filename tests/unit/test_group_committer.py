"""The group committer: what it does with batches, failures and the end."""

import asyncio
import sqlite3
import threading
from collections.abc import Sequence

import pytest

from service.domain.errors import PermanentError, RelayError
from service.group_commit import GroupCommitter, QueueFullError, StorageError

PATIENCE_S = 10.0


class Recorder:
    """A commit function that notes its batches and answers each item with its double."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.failure: BaseException | None = None
        self.proceed = threading.Event()
        self.proceed.set()

    def __call__(self, batch: Sequence[int]) -> Sequence[int | RelayError]:
        assert self.proceed.wait(PATIENCE_S)
        self.batches.append(list(batch))
        if self.failure is not None:
            raise self.failure
        return [PermanentError("odd") if item % 2 else 2 * item for item in batch]


def committer(
    commit: Recorder, *, max_batch: int = 100, max_queue: int = 100
) -> GroupCommitter[int, int]:
    return GroupCommitter(commit, name="test-writer", max_batch=max_batch, max_queue=max_queue)


async def test_what_one_turn_of_the_loop_submits_is_one_batch() -> None:
    commit = Recorder()
    group = committer(commit)
    assert await asyncio.gather(*(group.submit(item) for item in (0, 2, 4))) == [0, 4, 8]
    assert commit.batches == [[0, 2, 4]]
    await group.close()


async def test_the_error_of_one_item_harms_no_other() -> None:
    group = committer(Recorder())
    results = await asyncio.gather(
        *(group.submit(item) for item in (0, 1, 2)), return_exceptions=True
    )
    assert (results[0], results[2]) == (0, 4)
    assert isinstance(results[1], PermanentError)
    await group.close()


async def test_a_batch_is_no_larger_than_allowed() -> None:
    commit = Recorder()
    group = committer(commit, max_batch=2)
    await asyncio.gather(*(group.submit(item) for item in (0, 2, 4, 6, 8)))
    assert commit.batches == [[0, 2], [4, 6], [8]]
    await group.close()


async def test_a_failed_commit_fails_its_whole_batch_and_the_next_goes_on() -> None:
    commit = Recorder()
    group = committer(commit)
    commit.failure = sqlite3.OperationalError("disk full")
    results = await asyncio.gather(group.submit(0), group.submit(2), return_exceptions=True)
    assert [type(result) for result in results] == [StorageError, StorageError]
    commit.failure = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        await group.submit(0)
    commit.failure = None
    assert await group.submit(4) == 8
    await group.close()


async def test_too_much_waiting_is_refused_until_there_is_room() -> None:
    commit = Recorder()
    commit.proceed.clear()
    group = committer(commit, max_queue=2)
    waiting = [group.submit(0), group.submit(2)]
    assert group.waiting == 2
    with pytest.raises(QueueFullError):
        group.submit(4)
    commit.proceed.set()
    await asyncio.gather(*waiting)
    assert group.waiting == 0
    assert await group.submit(4) == 8
    await group.close()


async def test_closing_commits_what_waits_and_refuses_what_comes() -> None:
    group = committer(Recorder())
    waiting = group.submit(2)
    await group.close()
    assert await waiting == 4
    with pytest.raises(StorageError, match="closed"):
        group.submit(4)
    await group.close()


async def test_an_item_whose_waiter_left_is_committed_all_the_same() -> None:
    commit = Recorder()
    group = committer(commit)
    group.submit(2).cancel()
    await group.close()
    assert commit.batches == [[2]]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_nobody_waits_for_a_thread_that_died() -> None:
    commit = Recorder()

    def break_down() -> None:
        raise ZeroDivisionError

    group = GroupCommitter[int, int](
        commit, name="test-writer", max_batch=1, max_queue=10, after_batch=break_down
    )
    first, second = group.submit(2), group.submit(4)
    async with asyncio.timeout(PATIENCE_S):
        assert await first == 4
        with pytest.raises(StorageError, match="closed"):
            await second
        await group.close()
