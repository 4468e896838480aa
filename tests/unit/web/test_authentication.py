"""HTTP Basic: several pairs, throttled failures, bounded memory."""

from base64 import b64encode

import pytest
from aiohttp.test_utils import make_mocked_request

from service.web.authentication import BasicAuthentication, LoginThrottle
from tests.fakes.clock import FakeClock


def basic(pair: str) -> str:
    return "Basic " + b64encode(pair.encode()).decode()


def authentication(clock: FakeClock | None = None) -> BasicAuthentication:
    return BasicAuthentication(
        [("scayle", "old"), ("scayle", "new:er"), ("zoë", "pässword")],
        realm="webhooks",
        throttle=LoginThrottle(clock or FakeClock(), failures=3, window_s=60),
    )


def status(subject: BasicAuthentication, header: str | None) -> int | None:
    headers = {} if header is None else {"Authorization": header}
    refusal = subject.refusal(make_mocked_request("POST", "/", headers=headers))
    return None if refusal is None else refusal.status


@pytest.mark.parametrize(
    "header",
    [basic("scayle:old"), basic("scayle:new:er"), basic("zoë:pässword")]
    + [basic("scayle:old").replace("Basic", scheme) for scheme in ("basic", "BASIC")],
)
def test_each_of_several_pairs_passes(header: str) -> None:
    assert status(authentication(), header) is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic é",
        basic("scayle:wrong"),
        basic("scayle:"),
        basic("scayle"),
        basic(":old"),
        basic("SCAYLE:old"),
        basic("scayle:old") + "AA",
        basic("scayle:old").replace("Basic", "Bearer"),
        "Basic scayle:old",
        "Basic " + "A" * 8000,
    ],
)
def test_wrong_credentials_are_refused(header: str) -> None:
    assert status(authentication(), header) == 401


def test_refusals_name_the_scheme() -> None:
    refusal = authentication().refusal(make_mocked_request("POST", "/"))
    assert refusal is not None
    assert refusal.headers["WWW-Authenticate"] == 'Basic realm="webhooks", charset="UTF-8"'


def test_failures_are_throttled_and_right_credentials_pass_all_the_while() -> None:
    clock = FakeClock()
    subject = authentication(clock)
    seen = [status(subject, basic("scayle:guess")) for _ in range(5)]
    assert seen == [401, 401, 401, 429, 429]
    assert status(subject, basic("scayle:old")) is None
    assert status(subject, None) == 401, "asking without credentials is no failed login"
    clock.advance(61)
    assert status(subject, basic("scayle:guess")) == 401


def test_retry_after_is_what_is_left_of_the_window() -> None:
    clock = FakeClock()
    throttle = LoginThrottle(clock, failures=1, window_s=60)
    assert throttle.retry_after_s("192.0.2.1") == 0
    clock.advance(20)
    assert throttle.retry_after_s("192.0.2.1") == 40
    assert throttle.retry_after_s("192.0.2.2") == 0


def test_addresses_of_one_ipv6_network_count_together() -> None:
    throttle = LoginThrottle(FakeClock(), failures=1)
    assert throttle.retry_after_s("2001:db8:1:2::1") == 0
    assert throttle.retry_after_s("2001:db8:1:2:ffff::9%eth0") > 0
    assert throttle.retry_after_s("2001:db8:1:3::1") == 0
    assert throttle.retry_after_s("::ffff:192.0.2.1") == 0
    assert throttle.retry_after_s("::ffff:192.0.2.2") == 0


def test_memory_is_bounded_and_forgets_the_longest_quiet() -> None:
    throttle = LoginThrottle(FakeClock(), failures=1)
    assert throttle.retry_after_s("10.0.0.1") == 0
    for number in range(5000):
        throttle.retry_after_s(f"10.1.{number // 250}.{number % 250}")
    assert throttle.retry_after_s("10.0.0.1") == 0, "it was forgotten"
    assert throttle.retry_after_s("10.1.19.249") > 0
