"""Keeps Splio's rate limits: permits, evenly spaced, and a gate right before the write."""

import asyncio
import math
from collections import deque
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from prometheus_client import Histogram

from service.domain.clock import Clock
from service.domain.effects import Lane
from service.splio.schedule import JITTER_S, MemorySchedule, Rate, Schedule, rate_of

# A grant is given this long before the gate would open for it: what lies between the two (a
# commit, a connection) is usually shorter, and would otherwise come on top of every window.
LEAD_S: Final = 0.1
# A request of a shared schedule is written this long after its slot at the latest: half of what
# the slots leave between a window of them and a second, the other half is the network's.
LATE_S: Final = JITTER_S / 2
# Slots of a shared schedule taken at once are no more than this part of a window's.
_MOST_AT_ONCE: Final = 0.25
# Part of a lane's limit that may go before the rest of it, where that is asked for.
RESERVED_SHARE: Final = 0.4
# The others of such a lane take a slot only so long before they can make use of it: hardly one is
# taken when somebody comes with the right of way, and who wakes up late still finds it.
_WAKES_S: Final = 0.05
_RESET_LIMIT_S: Final = 300.0  # of a 429; a longer one would be a mistake of somebody's


class GateClosedError(Exception):
    """The request cannot be written before its deadline; nothing was counted."""


class Slot(NamedTuple):
    """When a request may be written: not before `opens_s`, and in a shared schedule by `ends_s`."""

    opens_s: float
    ends_s: float


class Grant:
    """
    The limiter's leave to write one request; used at the gate, or handed back.

    A holder that does neither makes the lane slower for good.
    """

    __slots__ = ("_lane", "_right", "lane", "slot")

    def __init__(
        self, lane: Lane, limit: "_LaneLimit | None", slot: Slot, right: Slot | None = None
    ) -> None:
        self.lane = lane
        self._lane = limit
        self._right = right
        self.slot = slot

    def hand_back(self) -> None:
        """The request will not be written; the next waiter may have its slot. Repeatable."""
        if self._lane is not None:
            self._lane.take_back(self.slot)
            if self._right is not None:
                self._lane.spare_rights.append(self._right)
            self._lane = None

    def use(self) -> None:
        """The request is being written. Repeatable."""
        if self._lane is not None:
            self._lane.outstanding -= 1
            self._lane = None


_ANY_TIME: Final = Slot(0.0, math.inf)


class _LaneLimit:
    """What one lane has written, granted and waits for."""

    __slots__ = (
        "came_back",
        "gate",
        "held_until",
        "lowered_until",
        "margin_s",
        "outstanding",
        "rate",
        "right_turn",
        "spare",
        "spare_rights",
        "turn",
        "waiting",
        "written",
    )

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.turn = asyncio.Lock()  # first come, first served; a cancelled waiter steps out
        self.right_turn = asyncio.Lock()  # the same for the reserved part
        self.gate = asyncio.Lock()
        self.spare: list[Slot] = []
        self.spare_rights: list[Slot] = []
        self.came_back = asyncio.Event()
        self.written: deque[float] = deque(maxlen=rate.capacity)
        self.outstanding = 0
        self.waiting = 0
        self.margin_s = 0.0
        self.held_until = 0.0
        self.lowered_until = 0.0

    def take_back(self, slot: Slot) -> None:
        self.outstanding -= 1
        self.spare.append(slot)
        self.came_back.set()

    def take_spare(self, now: float) -> Slot | None:
        """The earliest slot that was handed back and has not ended yet."""
        self.came_back.clear()
        return _take_earliest(self.spare, now)

    def grant_opens_at(self, slot_s: float) -> float:
        """
        When a grant for `slot_s` is due: not long before the gate lets its request through.

        Otherwise requests that were late once (a stalled event loop, a slow disk) would leave
        every later one of a busy lane waiting at the gate for as long, with its claim.
        """
        opens_at = max(slot_s, self.held_until)
        place = self.outstanding - (self.rate.capacity - len(self.written))
        if 0 <= place < len(self.written):
            opens_at = max(opens_at, self.written[place] + self.rate.window_s - LEAD_S)
        return opens_at

    def gate_opens_at(self) -> float:
        """When the next request may be written."""
        if len(self.written) < self.rate.capacity:
            return self.held_until
        return max(self.written[0] + self.rate.window_s, self.held_until)


def _take_earliest(spare: list[Slot], now: float) -> Slot | None:
    """Remove what has ended, and return and remove the earliest of the rest."""
    spare[:] = [slot for slot in spare if slot.ends_s > now]
    if not spare:
        return None
    slot = min(spare)
    spare.remove(slot)
    return slot


class Limiter:
    """
    Grants by lane in the order they were asked for; a lane without a limit grants at once.

    Two guards: the schedule spaces the grants evenly, and the gate never lets more requests be
    written within a window than the limit allows, whatever delayed them since their grant.

    A lane may have a reserved part, `RESERVED_SHARE` of its limit. Its requests need a right of
    way first, of which there are so many a second and a window's worth saved up. With it they
    take the lane's next slot at once, while the others take theirs when it is near: so they wait
    for two slots at most, however many others wait, in however many processes. All slots that
    they leave are for the others, who keep the rest of the limit in any case.

    Args:
        schedule: who owns the slots; in memory when None.
        reserved: the lanes that have a reserved part.
        waits: observed with the seconds that each grant was waited for, by lane.
    """

    def __init__(
        self,
        limits: Mapping[Lane, float | None],
        clock: Clock,
        *,
        schedule: Schedule | None = None,
        reserved: Collection[Lane] = (),
        waits: Mapping[Lane, Histogram] | None = None,
    ) -> None:
        rates = {lane: rate_of(limit) for lane, limit in limits.items() if limit is not None}
        self._clock = clock
        self._schedule: Schedule = schedule or MemorySchedule(rates, clock)
        # Of a shared schedule the slot itself is waited for at the gate.
        self._lead_s = LEAD_S if self._schedule.is_shared else 0.0
        self._lanes = {lane: _LaneLimit(rate) for lane, rate in rates.items()}
        self._reserved = reserved
        self._waits = waits or {}

    async def grant(self, lane: Lane, *, reserved: bool = False) -> Grant:
        """
        Wait for a slot of `lane`. Cancelled, it gives the slot to the next waiter.

        Args:
            reserved: of the lane's reserved part, if it has one.
        """
        limit = self._lanes.get(lane)
        if limit is None:
            self._observe(lane, 0.0)
            return Grant(lane, None, _ANY_TIME)
        asked_at = self._clock.monotonic_s()
        right: Slot | None = None
        if reserved and lane in self._reserved:
            # One at a time, slot included: else many rights could pile up while the lane is held.
            async with limit.right_turn:
                right = await self._take_right(lane, limit)
                try:
                    while (wait_s := right.opens_s - self._clock.monotonic_s()) > 0:
                        await self._clock.sleep(wait_s)
                    slot, now = await self._wait_for_grant(lane, limit, goes_first=True)
                except asyncio.CancelledError:
                    limit.spare_rights.append(right)
                    raise
        else:
            limit.waiting += 1
            try:
                async with limit.turn:
                    slot, now = await self._wait_for_grant(lane, limit)
            finally:
                limit.waiting -= 1
        self._observe(lane, now - asked_at)
        return Grant(lane, limit, slot, right)

    async def pass_gate(self, grant: Grant, *, deadline_s: float) -> None:
        """
        Wait until the granted request may be written, and count it as written now.

        The caller writes it without giving way to other tasks.
        Raises: GateClosedError when that would be after `deadline_s`, a monotonic time.
        """
        limit = self._lanes.get(grant.lane)
        if limit is None:
            self._refuse_late(deadline_s)
            return
        if self._schedule.is_shared:
            await self._wait_for_slot(grant, limit, deadline_s)
        if not limit.gate.locked() and limit.gate_opens_at() <= self._clock.monotonic_s():
            self._refuse_late(deadline_s)
            limit.written.append(self._clock.monotonic_s())
            grant.use()
            return
        async with limit.gate:
            while True:
                if self._schedule.is_shared:
                    await self._wait_for_slot(grant, limit, deadline_s)
                wait_s = limit.gate_opens_at() - self._clock.monotonic_s()
                if wait_s <= 0:
                    break
                if limit.gate_opens_at() > deadline_s:
                    raise GateClosedError
                await self._clock.sleep(wait_s)
            self._refuse_late(deadline_s)
            limit.written.append(self._clock.monotonic_s())
            grant.use()

    async def _take_right(self, lane: Lane, limit: _LaneLimit) -> Slot:
        """When the next may go before those who have no right to; good for a window."""
        right = _take_earliest(limit.spare_rights, self._clock.monotonic_s())
        if right is not None:
            return right
        interval_s = limit.rate.interval_s / RESERVED_SHARE
        window_s = limit.rate.window_s
        reserved = await self._schedule.right_of_way(
            lane, interval_s=interval_s, saved_s=max(0.0, window_s - interval_s)
        )
        return Slot(reserved.first_s, reserved.first_s + window_s)

    async def _wait_for_grant(
        self, lane: Lane, limit: _LaneLimit, *, goes_first: bool = False
    ) -> tuple[Slot, float]:
        """The next slot, once it is time to get ready for it, and that time."""
        slot = limit.take_spare(self._clock.monotonic_s())
        if slot is None:
            ahead_s = math.inf
            if lane in self._reserved and not goes_first:
                ahead_s = self._lead_s + self._schedule.answers_in_s() + _WAKES_S
            slot = await self._reserve(lane, limit, ahead_s=ahead_s)
        try:
            while True:
                now = self._clock.monotonic_s()
                wait_s = limit.grant_opens_at(slot.opens_s - self._lead_s) - now
                if wait_s <= 0:
                    break
                await self._sleep_unless(limit.came_back, wait_s)
                if limit.came_back.is_set():
                    # A request before this one was not written: its slot is the earlier one.
                    limit.spare.append(slot)
                    slot = limit.take_spare(self._clock.monotonic_s()) or slot
        except asyncio.CancelledError:
            limit.spare.append(slot)
            raise
        limit.outstanding += 1
        return slot, now

    async def _reserve(self, lane: Lane, limit: _LaneLimit, *, ahead_s: float = math.inf) -> Slot:
        """
        The lane's next slot, once it is no more than `ahead_s` ahead, or one that comes back
        before.

        In memory it is good for a window, as the gate counts all that is written. Of a shared
        schedule it is short, and known no better than two clocks are compared: what they may
        differ by is left free once in a window. Where the schedule is slow, several are taken at
        once for those who wait; the others are spare.
        """
        rate = limit.rate
        while True:
            stretch, count = 1.0, 1
            if self._schedule.is_shared:
                stretch += max(0.0, 2 * limit.margin_s - LATE_S / 2) / rate.window_s
                count += math.floor(self._schedule.answers_in_s() / rate.interval_s)
                count = max(1, min(count, limit.waiting, math.floor(rate.capacity * _MOST_AT_ONCE)))
            reserved = await self._schedule.reserve(
                lane, count=count, stretch=stretch, ahead_s=ahead_s
            )
            if reserved.is_taken:
                break
            opens_s = reserved.first_s + reserved.margin_s - ahead_s
            await self._sleep_unless(limit.came_back, opens_s - self._clock.monotonic_s())
            if spare := limit.take_spare(self._clock.monotonic_s()):
                return spare
        if not self._schedule.is_shared:
            return Slot(reserved.first_s, reserved.first_s + rate.window_s)
        limit.margin_s = margin_s = reserved.margin_s
        width_s = max(LATE_S - 2 * margin_s, LATE_S / 2)
        slots = [
            Slot(opens_s, opens_s + width_s)
            for opens_s in (
                reserved.first_s + margin_s + n * stretch * rate.interval_s for n in range(count)
            )
        ]
        limit.spare += slots[1:]
        return slots[0]

    async def _wait_for_slot(self, grant: Grant, limit: _LaneLimit, deadline_s: float) -> None:
        """Until the grant's slot is there; one that was missed is replaced by a later one."""
        while True:
            now = self._clock.monotonic_s()
            if now >= grant.slot.ends_s:
                try:
                    async with asyncio.timeout(deadline_s - now):
                        grant.slot = await self._reserve(grant.lane, limit)
                except TimeoutError:
                    raise GateClosedError from None
            elif now < grant.slot.opens_s:
                if grant.slot.opens_s > deadline_s:
                    raise GateClosedError
                await self._clock.sleep(grant.slot.opens_s - now)
            else:
                return

    async def _sleep_unless(self, event: asyncio.Event, seconds: float) -> None:
        """Sleep `seconds`, or until `event` is set where somebody else's slot may come back."""
        if not self._schedule.is_shared:
            await self._clock.sleep(seconds)
            return
        tasks = (
            asyncio.create_task(event.wait(), name="slot-came-back"),
            asyncio.create_task(self._clock.sleep(seconds), name="slot-sleep"),
        )
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def obey_reset(self, lane: Lane, *, seconds: float) -> None:
        """Splio answered 429: write nothing in `lane` for `seconds`."""
        limit = self._lanes.get(lane)
        if limit is not None:
            seconds = min(seconds, _RESET_LIMIT_S)
            limit.held_until = max(limit.held_until, self._clock.monotonic_s() + seconds)
            await self._schedule.hold(lane, seconds=seconds)

    async def compare_left(self, lane: Lane, *, left: int, asked_at_s: float) -> bool:
        """
        Slow `lane` down when Splio shows less left than our own count: someone shares its limit.

        Never speeds it up. The pause is what the others' requests take of the rate, at most
        once in a window. With a shared schedule the others may be our own processes, which this
        one does not count, so nothing can be told; a 429 is obeyed all the same.

        Args:
            left: requests that Splio's headers allow until they reset.
            asked_at_s: when the request was written whose reply carries them.
        Returns: whether the lane was slowed down.
        """
        limit = self._lanes.get(lane)
        if limit is None or self._schedule.is_shared:
            return False
        rate = limit.rate
        # Splio counted our requests before it answered; ours since then only lower the estimate.
        counted_since = asked_at_s - rate.window_s
        ours = sum(1 for written_s in limit.written if written_s > counted_since)
        others = rate.capacity - ours - left
        now = self._clock.monotonic_s()
        if others <= 0 or now < limit.lowered_until:
            return False
        limit.lowered_until = now + rate.window_s
        await self._schedule.hold(lane, seconds=min(others, rate.capacity) * rate.interval_s)
        return True

    def _refuse_late(self, deadline_s: float) -> None:
        if self._clock.monotonic_s() >= deadline_s:
            raise GateClosedError

    def _observe(self, lane: Lane, waited_s: float) -> None:
        histogram = self._waits.get(lane)
        if histogram is not None:
            histogram.observe(max(waited_s, 0.0))
