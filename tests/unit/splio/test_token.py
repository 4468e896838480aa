"""The token: one for all, renewed before its end and after a refusal."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.errors import LanePausedError, RetryableError
from service.splio.token import TokenSource, token_life_s
from tests.fakes.clock import FakeClock
from tests.fakes.splio_server import jwt

HOUR_S = 3600.0


class Bench:
    """A source whose authentications the test answers."""

    def __init__(self, *, life_s: float = HOUR_S, max_age_s: float = 100 * HOUR_S) -> None:
        self.clock = FakeClock()
        self.life_s = life_s
        self.asked = 0
        self.error: Exception | None = None
        self.answer = asyncio.Event()
        self.answer.set()
        self.source = TokenSource(self._authenticate, self.clock, max_age_s=max_age_s)

    async def _authenticate(self) -> str:
        self.asked += 1
        number = self.asked
        await self.answer.wait()
        if self.error is not None:
            raise self.error
        return jwt({"jti": number, "iat": 1000, "exp": 1000 + self.life_s})


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_many_callers_authenticate_once() -> None:
    bench = Bench()
    bench.answer.clear()
    callers = [asyncio.create_task(bench.source.fetch()) for _ in range(20)]
    await settle()
    bench.answer.set()

    tokens = set(await asyncio.gather(*callers))

    assert bench.asked == 1
    assert len(tokens) == 1
    assert bench.source.current() in tokens


async def test_cancelled_caller_leaves_the_others_their_token() -> None:
    bench = Bench()
    bench.answer.clear()
    first, second = (asyncio.create_task(bench.source.fetch()) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    bench.answer.set()

    assert (await second).startswith("Bearer ")
    assert bench.asked == 1


async def test_it_is_renewed_in_its_last_minute_behind_the_callers() -> None:
    bench = Bench()
    old = await bench.source.fetch()
    bench.clock.advance(HOUR_S - 59)

    assert bench.source.current() == old
    await settle()
    assert bench.asked == 2
    assert bench.source.current() not in (old, None)


async def test_ended_token_is_not_handed_out() -> None:
    bench = Bench()
    await bench.source.fetch()
    bench.clock.advance(HOUR_S)

    assert bench.source.current() is None
    await bench.source.fetch()
    assert bench.asked == 2


async def test_short_life_is_used_for_its_most_part() -> None:
    bench = Bench(life_s=10.0)
    await bench.source.fetch()
    bench.clock.advance(8.9)
    bench.source.current()
    await settle()
    assert bench.asked == 1

    bench.clock.advance(0.2)
    bench.source.current()
    await settle()

    assert bench.asked == 2


async def test_failed_renewal_keeps_the_old_token_and_does_not_hammer() -> None:
    bench = Bench()
    old = await bench.source.fetch()
    bench.clock.advance(HOUR_S - 59)
    bench.error = RetryableError("not_connected")
    for _ in range(50):
        assert bench.source.current() == old
        await settle()
    assert bench.asked == 2

    bench.clock.advance(6)
    bench.error = None
    bench.source.current()
    await settle()

    assert bench.asked == 3
    assert bench.source.current() != old


async def test_refused_token_is_replaced_once_for_all_who_were_refused() -> None:
    bench = Bench()
    old = await bench.source.fetch()
    bench.source.discard(old)
    new = await bench.source.fetch()
    bench.source.discard(old)

    assert bench.source.current() == new
    assert bench.asked == 2


async def test_wrong_key_is_told_to_every_caller() -> None:
    bench = Bench()
    bench.error = LanePausedError("authentication_failed")

    for _ in range(2):
        with pytest.raises(LanePausedError):
            await bench.source.fetch()
    assert bench.source.current() is None


async def test_close_ends_a_renewal() -> None:
    bench = Bench()
    bench.answer.clear()
    caller = asyncio.create_task(bench.source.fetch())
    await settle()

    await bench.source.close()

    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_unreadable_token_lives_as_long_as_the_setting_says() -> None:
    clock = FakeClock()

    async def authenticate() -> str:
        return "opaque"

    source = TokenSource(authenticate, clock, max_age_s=3000.0)
    assert await source.fetch() == "Bearer opaque"
    clock.advance(2999)
    assert source.current() == "Bearer opaque"
    await settle()
    clock.advance(3000)
    assert source.current() is None
    await source.close()


async def test_setting_shortens_a_long_life() -> None:
    bench = Bench(life_s=26 * HOUR_S, max_age_s=3000.0)
    await bench.source.fetch()
    bench.clock.advance(3000)

    assert bench.source.current() is None


@pytest.mark.parametrize(
    ("token", "life_s"),
    [
        (jwt({"iat": 5000, "exp": 98_600}), 93_600),
        (jwt({"exp": 4600}), 3600),
        (jwt({"iat": 5000, "exp": 5000}), None),
        (jwt({"exp": 10}), None),
        (jwt({"exp": "soon"}), None),
        (jwt({"exp": True}), None),
        (jwt({}), None),
        ("opaque", None),
        ("a.b.c", None),
        ("a.%%%.c", None),
        ("", None),
    ],
)
def test_life_is_read_from_the_token_whatever_the_clocks_say(
    token: str, life_s: float | None
) -> None:
    assert token_life_s(token, now_s=1000.0) == life_s


@given(st.text(max_size=60))
def test_no_token_breaks_the_reading_of_its_life(text: str) -> None:
    token_life_s(text, now_s=0.0)
    token_life_s(f"a.{text}.c", now_s=0.0)
