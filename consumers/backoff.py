"""How long an effect waits before its next attempt: a pure function of number, age and chance."""

from typing import Final

from service.domain.errors import RetryableError

MAX_AGE_S: Final = 14 * 86_400.0  # age, not number, ends retries (DESIGN, "Splio")
_BASE_S: Final = 1.0
_CAP_S: Final = 900.0
_CARD_BASE_S: Final = 60.0
_CARD_CAP_S: Final = 6 * 3_600.0
_LONGEST_OBEYED_S: Final = 3_600.0  # limits are per second; a longer wait asked for is a mistake
_MAX_DOUBLINGS: Final = 32  # beyond it every cap is reached and floats stay small


def backoff_s(attempt: int, chance: float, *, at_least_s: float | None = None) -> float:
    """
    Seconds until the next attempt: doubling from 1 s to 15 min, with jitter from half to whole.

    Args:
        attempt: number of the attempt that ended, from 1.
        chance: a random number in [0, 1).
        at_least_s: what the other side asked for; obeyed up to an hour, with up to a tenth more
            so that many waiters do not return at once.
    """
    wait_s = _doubling(_BASE_S, _CAP_S, attempt, chance)
    if at_least_s is None:
        return wait_s
    return min(at_least_s, _LONGEST_OBEYED_S) * (1 + 0.1 * chance)


def card_backoff_s(attempt: int, chance: float) -> float:
    """Seconds until a card that Splio did not know is tried again: 1 min to 6 h."""
    return _doubling(_CARD_BASE_S, _CARD_CAP_S, attempt, chance)


def retry_after_s(error: RetryableError, attempt: int, chance: float) -> float:
    """Seconds until the same request may be sent again after `error`."""
    return backoff_s(attempt, chance, at_least_s=error.retry_after_s)


def _doubling(base_s: float, cap_s: float, attempt: int, chance: float) -> float:
    ceiling = min(cap_s, base_s * 2.0 ** min(max(attempt - 1, 0), _MAX_DOUBLINGS))
    return ceiling * (0.5 + 0.5 * chance)
