"""Access tokens: per operation, in three forms, throttled, against hostile headers."""

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from service.domain.checkout import CallOperation
from service.web.authentication import LoginThrottle
from service.web.tokens import TokenAuthentication
from tests.fakes.clock import FakeClock

BALANCE, CAPTURE = CallOperation.BALANCE, CallOperation.CAPTURE


def authentication(clock: FakeClock | None = None) -> TokenAuthentication:
    return TokenAuthentication(
        [("balance", "old"), ("balance", "n%w=="), ("capture", "two words"), ("*", "master")],
        throttle=LoginThrottle(clock or FakeClock(), failures=3, window_s=60),
    )


def status(
    subject: TokenAuthentication, operation: CallOperation, *headers: tuple[str, str]
) -> int | None:
    request = make_mocked_request("GET", "/", headers=CIMultiDict(headers))
    refusal = subject.refusal(request, operation)
    return None if refusal is None else refusal.status


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Bearer old")],
        [("Authorization", "bearer old")],
        [("authorization", "BEARER   old ")],
        [("Authorization", "old")],
        [("X-Access-Token", "old")],
        [("x-access-token", " old ")],
        [("Authorization", "Bearer n%w==")],
        [("Authorization", "n%w==")],
        [("Authorization", "Bearer wrong"), ("X-Access-Token", "old")],
        [("Authorization", ""), ("X-Access-Token", "old")],
        [("Authorization", "old"), ("X-Access-Token", "")],
        [("Authorization", "Bearer master")],
    ],
)
def test_each_token_passes_in_each_form(headers: list[tuple[str, str]]) -> None:
    assert status(authentication(), BALANCE, *headers) is None


def test_a_token_may_hold_a_space() -> None:
    for text in ("two words", "Bearer two words"):
        assert status(authentication(), CAPTURE, ("Authorization", text)) is None


@pytest.mark.parametrize(
    "header",
    [
        "wrong",
        "Bearer wrong",
        "Bearer",
        "Bearer old old",
        "Token old",
        "Basic old",
        "OLD",
        "old,",
        "é",
        "Bearer é",
        "old\x00",
        "Bearer\told",
        "*",
        "Bearer *",
        "balance=old",
        "A" * 8000,
        "Bearer " + "A" * 8000,
        " ".join(["Bearer"] * 1000),
    ],
)
@pytest.mark.parametrize("name", ["Authorization", "X-Access-Token"])
def test_wrong_tokens_are_refused(name: str, header: str) -> None:
    assert status(authentication(), BALANCE, (name, header)) == 401


def test_the_other_header_takes_the_bare_token_only() -> None:
    assert status(authentication(), BALANCE, ("X-Access-Token", "Bearer old")) == 401


@pytest.mark.parametrize("operation", [each for each in CallOperation if each is not BALANCE])
def test_a_token_of_another_operation_is_a_wrong_one(operation: CallOperation) -> None:
    assert status(authentication(), operation, ("Authorization", "Bearer old")) == 401
    assert status(authentication(), operation, ("Authorization", "Bearer master")) is None


def test_an_operation_without_a_token_takes_none() -> None:
    subject = TokenAuthentication([("balance", "old")], throttle=LoginThrottle(FakeClock()))
    assert status(subject, CAPTURE, ("Authorization", "old")) == 401
    assert status(subject, CAPTURE, ("Authorization", "")) == 401


def test_refusals_name_the_scheme_and_say_no_more_of_a_token() -> None:
    subject = authentication()
    for headers in ({}, {"Authorization": "Bearer hidden"}):
        refusal = subject.refusal(make_mocked_request("GET", "/", headers=headers), BALANCE)
        assert refusal is not None
        assert refusal.headers["WWW-Authenticate"] == "Bearer"
        assert refusal.content_type == "application/problem+json"
        assert "hidden" not in (refusal.text or "")


def test_failures_are_throttled_and_the_right_token_passes_all_the_while() -> None:
    clock = FakeClock()
    subject = authentication(clock)
    wrong = ("Authorization", "Bearer guess"), ("X-Access-Token", "guess")
    seen = [status(subject, BALANCE, *wrong) for _ in range(5)]
    assert seen == [401, 401, 401, 429, 429], "both headers are one failure"
    assert status(subject, BALANCE, ("Authorization", "old")) is None
    assert status(subject, BALANCE) == 401, "asking without a token is no failed login"
    assert status(subject, BALANCE, ("Authorization", " ")) == 401
    refusal = subject.refusal(
        make_mocked_request("GET", "/", headers=dict([wrong[0]])), CallOperation.CAPTURE
    )
    assert refusal is not None
    assert (refusal.status, refusal.headers["Retry-After"]) == (429, "60")
    clock.advance(61)
    assert status(subject, BALANCE, *wrong) == 401


@given(st.sampled_from(["Authorization", "X-Access-Token"]), st.text(max_size=40))
def test_any_header_is_refused_or_known(name: str, text: str) -> None:
    known = text.strip() in {"old", "n%w==", "master", "Bearer old", "Bearer master"}
    assert known or status(authentication(), BALANCE, (name, text)) == 401
