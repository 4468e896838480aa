"""Backoff: bounds, growth and obedience."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.backoff import backoff_s, card_backoff_s, retry_after_s
from service.domain.errors import RetryableError

ATTEMPTS = st.integers(1, 10**9)
CHANCES = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("attempt", "least", "most"),
    [(1, 0.5, 1), (2, 1, 2), (3, 2, 4), (10, 256, 512), (11, 450, 900), (500, 450, 900)],
)
def test_it_doubles_from_a_second_to_a_quarter_of_an_hour(
    attempt: int, least: float, most: float
) -> None:
    assert backoff_s(attempt, 0.0) == least
    assert backoff_s(attempt, 0.999_999_999) == pytest.approx(most)


@pytest.mark.parametrize(
    ("attempt", "least", "most"),
    [(1, 30, 60), (2, 60, 120), (9, 7_680, 15_360), (10, 10_800, 21_600), (99, 10_800, 21_600)],
)
def test_an_unknown_card_waits_from_a_minute_to_six_hours(
    attempt: int, least: float, most: float
) -> None:
    assert card_backoff_s(attempt, 0.0) == least
    assert card_backoff_s(attempt, 0.999_999_999) == pytest.approx(most)


@given(ATTEMPTS, CHANCES)
def test_no_wait_is_out_of_bounds(attempt: int, chance: float) -> None:
    assert 0.5 <= backoff_s(attempt, chance) <= 900
    assert 30 <= card_backoff_s(attempt, chance) <= 21_600


@given(ATTEMPTS, CHANCES)
def test_the_next_wait_is_never_shorter_for_the_same_chance(attempt: int, chance: float) -> None:
    assert backoff_s(attempt + 1, chance) >= backoff_s(attempt, chance)
    assert card_backoff_s(attempt + 1, chance) >= card_backoff_s(attempt, chance)


@given(attempt=ATTEMPTS, chance=CHANCES, asked_s=st.floats(0, 3_600))
def test_a_wait_that_was_asked_for_is_obeyed(attempt: int, chance: float, asked_s: float) -> None:
    wait_s = backoff_s(attempt, chance, at_least_s=asked_s)

    assert asked_s <= wait_s <= asked_s * 1.1
    assert retry_after_s(
        RetryableError("rate_limited", retry_after_s=asked_s), attempt, chance
    ) == (wait_s)


@pytest.mark.parametrize("asked_s", [1e6, 1e300, float("inf")])
def test_an_absurd_wait_is_cut_to_an_hour(asked_s: float) -> None:
    assert 3_600 <= backoff_s(1, 0.5, at_least_s=asked_s) <= 3_960


def test_without_a_word_the_backoff_holds() -> None:
    assert retry_after_s(RetryableError("not_connected"), 3, 0.0) == backoff_s(3, 0.0)
