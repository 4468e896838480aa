from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.sandbox.limits import PeakRate, RateLimits, category_of


@pytest.mark.parametrize(
    ("path", "category"),
    [
        ("data/contacts", "contacts"),
        ("data/contacts/a@example.com/orders", "contacts"),
        ("data/v1/orders", "sales"),
        ("data/orders/1", "sales"),
        ("data/v3/orders/1", "sales"),
        ("data/v1/products/contacts", "sales"),
        ("data/v1/stores", "sales"),
        ("data/fields/orders", "other"),
        ("data/fields", "other"),
        ("loyalty/points", "other"),
        ("authenticate", "other"),
    ],
)
def test_category_of_a_path(path: str, category: str) -> None:
    assert category_of(tuple(path.split("/"))) == category


@given(
    limit=st.sampled_from([1, 3, 10, 2.5, 0.5]),
    gaps=st.lists(st.floats(0, 0.7), min_size=1, max_size=60),
)
def test_never_more_than_the_limit_within_its_window(limit: float, gaps: list[float]) -> None:
    limits = RateLimits({"other": limit})
    capacity = max(1, int(limit))
    now, passed = 1000.0, []
    for gap in gaps:
        now += gap
        if limits.take("127.0.0.1", "other", now=now).allowed:
            passed.append(now)
    for place, began in enumerate(passed[:-capacity]):
        assert passed[place + capacity] >= began + capacity / limit


def test_window_that_is_over_lets_the_full_number_pass() -> None:
    limits = RateLimits({"other": 3})
    for second in (0.0, 1.0, 2.0):
        verdicts = [limits.take("a", "other", now=second).allowed for _ in range(4)]
        assert verdicts == [True, True, True, False]


def test_each_client_has_its_own_allowance() -> None:
    limits = RateLimits({"other": 1})
    assert limits.take("a", "other", now=0.0).allowed
    assert limits.take("b", "other", now=0.0).allowed
    assert not limits.take("a", "other", now=0.9).allowed


def test_limits_off_give_no_headers() -> None:
    verdict = RateLimits(None).take("a", "other", now=0.0)
    assert (verdict.allowed, verdict.headers) == (True, {})


def test_reset_counts_whole_seconds_until_there_is_room() -> None:
    limits = RateLimits({"other": 0.25})
    limits.take("a", "other", now=0.0)
    assert limits.take("a", "other", now=1.5).headers["rateLimit-reset"] == "3"


@pytest.mark.parametrize("limits", [{"mail": 1}, {"other": 0}, {"other": -1}])
def test_wrong_limits_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"categor|above 0"):
        RateLimits(limits)


def test_peak_is_the_most_within_one_second() -> None:
    peak = PeakRate()
    for now in (0.0, 0.5, 0.9, 1.4, 2.0, 9.0):
        peak.count(now=now)
    assert peak.highest == 3
