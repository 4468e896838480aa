"""The queue of a lane: bounded, in order, and behind the ledger rather than ahead of it."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.lane import LaneQueue
from service.domain.ledger import ReadyEffect
from tests.fakes.waiting import settle_down
from tests.unit.builders import make_ready

EFFECTS = [make_ready(str(number)) for number in range(12)]


def caught_up(size: int) -> LaneQueue:
    """A queue that polling found nothing for."""
    queue = LaneQueue(size)
    queue.refill([], complete=True)
    return queue


async def drain(queue: LaneQueue) -> list[ReadyEffect]:
    return [await queue.take() for _ in range(len(queue))]


async def test_effects_come_in_plan_order() -> None:
    queue = caught_up(10)
    queue.offer(EFFECTS[:3])
    queue.offer(EFFECTS[3:5])

    assert await drain(queue) == EFFECTS[:5]


async def test_a_new_queue_asks_the_ledger_before_it_takes_fresh_effects() -> None:
    """What a former run left is older."""
    queue = LaneQueue(10)
    assert queue.wants_refill.is_set()

    queue.offer(EFFECTS[5:])
    assert len(queue) == 0
    queue.refill(EFFECTS[:2], complete=True)
    queue.offer(EFFECTS[2:3])

    assert await drain(queue) == EFFECTS[:3]


async def test_what_does_not_fit_stays_in_the_ledger_and_so_does_what_follows() -> None:
    queue = caught_up(3)
    queue.offer(EFFECTS[:5])
    assert len(queue) == 3 and queue.is_behind

    assert await queue.take() == EFFECTS[0]
    queue.offer(EFFECTS[5:6])  # there is room, but older ones wait in the ledger

    assert len(queue) == 2


async def test_it_asks_for_a_refill_when_half_empty_and_behind() -> None:
    queue = caught_up(4)
    queue.wants_refill.clear()
    queue.offer(EFFECTS[:6])

    await queue.take()
    assert not queue.wants_refill.is_set()
    await queue.take()

    assert queue.wants_refill.is_set()


async def test_it_asks_for_nothing_when_it_is_not_behind() -> None:
    queue = caught_up(4)
    queue.wants_refill.clear()
    queue.offer(EFFECTS[:4])

    await drain(queue)

    assert not queue.wants_refill.is_set()


async def test_a_queue_of_one_is_refilled_too() -> None:
    queue = LaneQueue(1)
    queue.wants_refill.clear()
    queue.refill(EFFECTS[:2], complete=True)
    assert queue.is_behind

    await queue.take()

    assert queue.wants_refill.is_set()


async def test_effects_in_hand_are_not_queued_twice() -> None:
    queue = caught_up(10)
    queue.offer(EFFECTS[:2])
    taken = await queue.take()

    queue.refill(EFFECTS[:3], complete=True)
    queue.offer(EFFECTS[:4])
    assert await drain(queue) == EFFECTS[1:4]

    queue.done(taken.key)
    queue.refill([taken], complete=True)
    assert await drain(queue) == [taken]


async def test_a_refill_asks_for_what_fits() -> None:
    queue = caught_up(4)
    queue.offer(EFFECTS[:4])

    assert queue.room() == 1  # a full queue still learns whether the ledger holds more
    await queue.take()
    await queue.take()
    await queue.take()

    assert queue.room() == 3


async def test_an_effect_put_back_comes_first() -> None:
    queue = caught_up(4)
    queue.offer(EFFECTS[:3])

    queue.put_back(await queue.take())

    assert await drain(queue) == EFFECTS[:3]


async def test_a_cancelled_take_loses_nothing() -> None:
    queue = caught_up(10)
    takers = [asyncio.create_task(queue.take()) for _ in range(6)]
    await settle_down()

    queue.offer(EFFECTS[:4])
    for taker in takers[::2]:
        taker.cancel()  # some of them have been woken by the offer already
    await settle_down()

    taken = [taker.result() for taker in takers if taker.done() and not taker.cancelled()]
    rest = await drain(queue)
    assert sorted(each.key for each in taken + rest) == [each.key for each in EFFECTS[:4]]
    assert len(taken) == 3
    for taker in takers:
        taker.cancel()


STEPS = st.lists(
    st.tuples(st.sampled_from(["offer", "refill", "take", "put_back", "done"]), st.integers(0, 11)),
    max_size=60,
)


@pytest.mark.filterwarnings("error")
@given(steps=STEPS, size=st.integers(1, 5))
def test_no_effect_is_there_twice_and_the_bound_holds(
    steps: list[tuple[str, int]], size: int
) -> None:
    async def play() -> None:
        queue, in_hand = LaneQueue(size), []
        for what, number in steps:
            before = len(queue)
            match what:
                case "offer":
                    queue.offer(EFFECTS[number : number + 3])
                    assert len(queue) <= max(size, before)
                case "refill":
                    queue.refill(EFFECTS[number : number + 4], complete=number % 2 == 0)
                    assert len(queue) <= max(size, before)
                case "take" if before:
                    in_hand.append(await queue.take())
                case "put_back" if in_hand:
                    queue.put_back(in_hand.pop())
                case "done" if in_hand:
                    queue.done(in_hand.pop(0).key)
            keys = [each.key for each in in_hand]
            assert len(set(keys)) == len(keys)
            assert queue.in_hand >= set(keys)
        rest = await drain(queue)
        assert len({each.key for each in rest + in_hand}) == len(rest) + len(in_hand)

    asyncio.run(play())
