"""Event ids: UUIDs of version 7, in the order in which one process made them."""

import random
from typing import Final

from service.domain.clock import Clock

_COUNTER_BITS: Final = 12
_RANDOM_BITS: Final = 62
_VERSION: Final = 7 << 76
_VARIANT: Final = 0b10 << 62


class EventIds:
    """
    Makes UUIDv7 texts that grow strictly, several in one millisecond and when the clock stands.

    The 12 bits after the version are a counter within the millisecond; when they run out the
    next millisecond is borrowed. Source: RFC 9562, sections 5.7 and 6.2 (method 1).
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_ms = 0
        self._counter = 0

    def next(self) -> str:
        """A new id, greater than every one before it."""
        now_ms = self._clock.now_ms()
        if now_ms > self._last_ms:
            self._last_ms = now_ms
            self._counter = 0
        else:
            self._counter += 1
            if self._counter >> _COUNTER_BITS:
                self._last_ms += 1
                self._counter = 0
        number = (
            self._last_ms << 80
            | _VERSION
            | self._counter << 64
            | _VARIANT
            | random.getrandbits(_RANDOM_BITS)
        )
        digits = f"{number:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
