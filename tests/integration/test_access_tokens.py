"""Access tokens over a real socket: headers that no client library would send."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from service.domain.checkout import CallOperation
from service.domain.clock import SteadyClock
from service.web.answers import json_answer
from service.web.authentication import LoginThrottle
from service.web.listeners import Listener, ListenerConfig
from service.web.tokens import TokenAuthentication
from tests.fakes.raw_http import exchange


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Of a listener that answers 200 to the token `a?b` alone."""
    authentication = TokenAuthentication(
        [("balance", "a?b")], throttle=LoginThrottle(SteadyClock())
    )

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return authentication.refusal(request, CallOperation.BALANCE) or json_answer({})

    listener = Listener(ListenerConfig("public", "127.0.0.1", 0, "RELAY_HTTP_PORT"), answer)
    await listener.start()
    yield listener.port
    await listener.stop(grace_s=5)


@pytest.mark.parametrize("name", [b"Authorization", b"X-Access-Token", b"AUTHORIZATION"])
@pytest.mark.parametrize(
    ("value", "status"),
    [
        (b"a?b", 200),
        (b"\t a?b \t", 200),
        (b"a\xffb", 401),
        (b"a\xed\xa0\x80b", 401),
        (b"Bearer \xc3\xa9", 401),
        (b"", 401),
        (b"A" * 8000, 401),
        (b"A" * 9000, 431),
    ],
)
async def test_any_header_is_answered(port: int, name: bytes, value: bytes, status: int) -> None:
    head = b"GET /balance HTTP/1.1\r\nHost: test\r\n%b: %b\r\n\r\n" % (name, value)
    answer = await exchange(port, head)
    assert answer is not None
    assert answer.status == status
