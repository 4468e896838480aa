"""A lane: the queue of one rate category, and what may hold it still."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from consumers.brake import BrakeRule, DeadLetterBrake
from consumers.stopping import set_within
from service.domain.clock import Clock
from service.domain.effects import EffectKey, Lane
from service.domain.ledger import ReadyEffect

_FIRST_PROBE_S: Final = 5.0
_LONGEST_PROBE_S: Final = 300.0


class LaneQueue:
    """
    Effects of one lane in memory, in plan order, at most `size`.

    What does not fit stays due in the ledger. `in_hand` are the keys that are queued or being
    attempted here, so that polling does not hand them out twice.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._effects: deque[ReadyEffect] = deque()
        self._available = asyncio.Semaphore(0)
        self.in_hand: set[EffectKey] = set()
        self.is_behind = True  # the ledger may hold due effects that are not here
        self.wants_refill = asyncio.Event()
        self.wants_refill.set()

    def __len__(self) -> int:
        return len(self._effects)

    def offer(self, effects: Iterable[ReadyEffect]) -> None:
        """Take fresh effects while there is room and nothing older waits in the ledger."""
        for effect in effects:
            if self.is_behind or len(self._effects) >= self._size:
                self.is_behind = True
                return
            if effect.key not in self.in_hand:
                self._put(effect)

    def refill(self, effects: Sequence[ReadyEffect], *, complete: bool) -> None:
        """Take what polling found; `complete` when the ledger had no more."""
        for effect in effects:
            if len(self._effects) >= self._size:
                complete = False
                break
            if effect.key not in self.in_hand:
                self._put(effect)
        self.is_behind = not complete

    def room(self) -> int:
        """How many effects a refill may ask for; 1 at least, to learn whether there are more."""
        return max(1, self._size - len(self._effects))

    async def take(self) -> ReadyEffect:
        """The next effect; it stays in hand until `done`."""
        await self._available.acquire()
        effect = self._effects.popleft()
        if self.is_behind and len(self._effects) <= self._size // 2:
            self.wants_refill.set()
        return effect

    def put_back(self, effect: ReadyEffect) -> None:
        """Return an effect that was taken and not attempted to the head of the queue."""
        self._effects.appendleft(effect)
        self._available.release()

    def done(self, key: EffectKey) -> None:
        """The effect's attempt is over; polling may find it again."""
        self.in_hand.discard(key)

    def _put(self, effect: ReadyEffect) -> None:
        self.in_hand.add(effect.key)
        self._effects.append(effect)
        self._available.release()


class LaneGate:
    """
    Lets attempts of one lane through, or holds them: paused, braked, or storage low.

    A pause follows a refusal that nobody documented: one probe at a time is let through now and
    then, and any answer but another such refusal ends it. A brake waits for a person.

    Attempts that began before the pause still end during it. What they tell is said with
    `is_probe=False`, so that it is not taken for the probe's end.
    """

    def __init__(self, lane: Lane, *, clock: Clock, brake_rule: BrakeRule | None) -> None:
        self.lane = lane
        self.brake = DeadLetterBrake(brake_rule)
        self.braked: str | None = None
        self._brake_at_s = 0.0  # when the brake was set or released here
        self.paused: str | None = None
        self.storage_low = False
        self._clock = clock
        self._probe_s = _FIRST_PROBE_S
        self._probe_at_s = 0.0
        self._probing = False
        self._changed = asyncio.Event()  # another one after every change, so none is missed

    def is_open(self) -> bool:
        return self.paused is None and self.braked is None and not self.storage_low

    def lets_through(self, *, is_probe: bool) -> bool:
        """Whether an attempt that `passed` may still begin, as it waited for its permit since."""
        if is_probe:
            return self.braked is None and not self.storage_low
        return self.is_open()

    async def passed(self) -> bool:
        """Return when an attempt may begin; True when it is the probe of a paused lane."""
        while not self.is_open():
            changed = self._changed
            if self.braked is not None or self.storage_low or self._probing:
                await changed.wait()
                continue
            wait_s = self._probe_at_s - self._clock.monotonic_s()
            if wait_s <= 0:
                self._probing = True
                return True
            await set_within(changed, self._clock, wait_s)
        return False

    def skipped(self, *, is_probe: bool) -> None:
        """The attempt that was let through did not take place: the next may, at once."""
        if is_probe:
            self._probing = False
            self._notify()

    def inconclusive(self, *, is_probe: bool) -> None:
        """The attempt told nothing of the lane: the next probe waits as long as this one did."""
        if is_probe:
            self._probing = False
            self._probe_at_s = self._clock.monotonic_s() + self._probe_s
            self._notify()

    def pause(self, reason: str, *, is_probe: bool) -> bool:
        """Hold the lane after an undocumented refusal; True when it was open before."""
        was_open = self.paused is None
        if not (was_open or is_probe):
            return False  # begun before the pause: it tells no more than what paused the lane
        self._probe_s = _FIRST_PROBE_S if was_open else min(self._probe_s * 2, _LONGEST_PROBE_S)
        self._probe_at_s = self._clock.monotonic_s() + self._probe_s
        self._probing = False
        self.paused = reason
        self._notify()
        return was_open

    def answered(self) -> bool:
        """An attempt ended in a way we know; True when that ended a pause."""
        self._probing = False
        if self.paused is None:
            return False
        self.paused = None
        self._notify()
        return True

    def set_brake(self, reason: str) -> None:
        self.braked = reason
        self._brake_at_s = self._clock.monotonic_s()

    def follow_brake(self, reason: str | None, *, asked_at_s: float) -> None:
        """What the ledger said of the brake when it was asked; what happened here since stands."""
        if asked_at_s <= self._brake_at_s or (reason is None) is (self.braked is None):
            return
        self.braked = reason
        if reason is None:
            self.brake.reset()
        self._notify()

    def set_storage_low(self, low: bool) -> None:
        if self.storage_low != low:
            self.storage_low = low
            self._notify()

    def release(self) -> None:
        """Forget brake and pause."""
        self.braked = None
        self._brake_at_s = self._clock.monotonic_s()
        self.paused = None
        self._probing = False
        self.brake.reset()
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
