"""The webhooks' door over real sockets: every answer of its table, and what nobody should send."""

import asyncio
import logging
from typing import Any
from uuid import UUID

import orjson
import pytest

from producers.envelope import read_envelope
from service.domain.errors import LogUnavailableError, PermanentError
from service.domain.ports import Step
from service.domain.records import Topic
from tests.fakes.public_listener import (
    AUTHORIZATION,
    BODY_LIMIT,
    PATH,
    PublicListener,
    public_listener,
)
from tests.fakes.raw_http import RawAnswer, RawConnection, exchange, request
from tests.fakes.scayle_bodies import ABSENT, order_confirmed_bytes
from tests.fakes.waiting import until

LOGIN = {"Authorization": AUTHORIZATION}


def webhook(body: bytes | None = None, **headers: str) -> bytes:
    """The bytes of a good webhook, with more headers (`_` is written `-`)."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return request(
        "POST", PATH, headers=LOGIN | more, body=order_confirmed_bytes() if body is None else body
    )


async def post(running: PublicListener, data: bytes) -> RawAnswer:
    answer = await exchange(running.port, data)
    assert answer is not None
    return answer


def slug(answer: RawAnswer | None) -> str:
    """The kind of problem that an answer names."""
    assert answer is not None
    assert answer.headers["content-type"] == "application/problem+json"
    document = orjson.loads(answer.body)
    assert document["status"] == answer.status
    return str(document["type"]).removeprefix("urn:loyalty-relay:problem:")


async def still_serves(running: PublicListener) -> None:
    """A good webhook right now is durable and answered 200."""
    before = len(running.log.records)
    answer = await post(running, webhook())
    assert answer.status == 200
    assert len(running.log.records) == before + 1


async def test_confirmed_order_is_durable_and_answered_200() -> None:
    async with public_listener() as running:
        answer = await post(running, webhook())
        assert answer.status == 200
        document = orjson.loads(answer.body)
        assert document["outcome"] == "accepted"
        (record,) = running.log.records
        assert (record.topic, record.key) == (Topic.ORDERS, "10000001")
        envelope = read_envelope(record.value)
        assert envelope.event_id == document["event_id"] == str(UUID(document["event_id"]))
        assert envelope.payload["id"] == "10000001"
        assert running.counted("accepted") == 1
        assert running.steps == [Step.WEBHOOK_READ, Step.WEBHOOK_PUBLISHED]
        assert (answer.headers["content-type"], answer.headers["server"]) == (
            "application/json",
            "loyalty-relay",
        )
        assert answer.headers["date"].endswith("GMT")


async def test_no_answer_before_the_log_acknowledged() -> None:
    """P1."""
    async with public_listener() as running, RawConnection(running.port) as connection:
        running.log.gate.clear()
        await connection.send(webhook())
        await until(lambda: running.log.waiting)
        assert running.steps == [Step.WEBHOOK_READ]
        reading = asyncio.create_task(connection.answer())
        await asyncio.wait([reading], timeout=0.05)
        assert not reading.done()
        running.log.gate.set()
        answer = await reading
        assert answer is not None
        assert answer.status == 200


async def test_connection_serves_many_webhooks_also_pipelined() -> None:
    async with public_listener() as running, RawConnection(running.port) as connection:
        await connection.send(webhook() * 3)
        answers = [await connection.answer() for _ in range(3)]
        await connection.send(webhook())
        answers.append(await connection.answer())
        assert [answer and answer.status for answer in answers] == [200] * 4
        assert len(running.log.records) == 4


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_connection_ends_when_the_client_asks_for_it(version: str, connection: str) -> None:
    async with public_listener() as running, RawConnection(running.port) as client:
        data = webhook(Connection=connection).replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1)
        await client.send(data)
        answer = await client.answer()
        assert answer is not None
        assert answer.status == 200
        if connection == "close":
            assert await client.is_closed()
        else:
            await client.send(data)
            assert await client.answer() is not None


async def test_chunked_and_slowly_sent_bodies_are_taken_whole() -> None:
    body = order_confirmed_bytes()
    head = webhook().partition(b"\r\n\r\n")[0]
    chunked = head.replace(f"Content-Length: {len(body)}".encode(), b"Transfer-Encoding: chunked")
    async with public_listener() as running, RawConnection(running.port) as connection:
        await connection.send(chunked + b"\r\n\r\n")
        for part in (body[:1000], body[1000:]):
            await connection.send(b"%x\r\n%b\r\n" % (len(part), part))
        await connection.send(b"0\r\n\r\n")
        answer = await connection.answer()
        assert answer is not None
        assert answer.status == 200
        await connection.send(head + b"\r\n\r\n" + body[:10])
        await until(lambda: running.listener.connections)
        await connection.send(body[10:])
        answer = await connection.answer()
        assert answer is not None
        assert answer.status == 200
        assert [record.key for record in running.log.records] == ["10000001"] * 2


async def test_event_type_that_is_not_used_is_ignored_and_not_published() -> None:
    async with public_listener() as running:
        answer = await post(running, webhook(b'{"type": "customer-created", "payload": {}}'))
        assert (answer.status, orjson.loads(answer.body)) == (200, {"outcome": "ignored"})
        assert running.log.records == []
        assert running.counted("ignored") == 1


async def test_used_type_that_cannot_be_read_is_kept_whole_and_answered_200() -> None:
    """P3: refusing would make SCAYLE repeat it and at last disable the subscription."""
    body = order_confirmed_bytes({"payload.cost": ABSENT})
    async with public_listener() as running:
        answer = await post(running, webhook(body))
        assert answer.status == 200
        document = orjson.loads(answer.body)
        assert document["outcome"] == "unreadable"
        (record,) = running.log.records
        assert (record.topic, record.value) == (Topic.UNREADABLE, body)
        assert record.headers["reason"] == "payload.cost missing"
        assert record.headers["event_id"] == document["event_id"]
        assert running.counted("unreadable") == 1


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"type": 5}', b"\xff", b"{" * 5000])
async def test_what_is_not_a_json_object_with_a_text_type_is_refused(body: bytes) -> None:
    async with public_listener() as running:
        answer = await post(running, webhook(body))
        assert (answer.status, slug(answer)) == (400, "not-an-event")
        assert running.log.records == []
        assert running.counted("malformed") == 1


async def test_credentials_are_checked_before_the_body_is_read() -> None:
    head = request("POST", PATH, headers={"Content-Length": "100000"})
    wrong = request("POST", PATH, headers={"Content-Length": "5", "Authorization": "Basic eDp5"})
    async with public_listener() as running:
        for data in (head, wrong):
            answer = await post(running, data)
            assert (answer.status, slug(answer)) == (401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Basic ")
        assert running.counted("unauthorized") == 2
        assert running.steps == []


async def test_failed_logins_are_throttled_and_right_ones_pass() -> None:
    wrong = request("POST", PATH, headers={"Authorization": "Basic eDp5"}, body=b"{}")
    async with public_listener() as running, RawConnection(running.port) as connection:
        answers = []
        for _ in range(12):
            await connection.send(wrong)
            answer = await connection.answer()
            assert answer is not None
            answers.append(answer)
        assert [answer.status for answer in answers] == [401] * 10 + [429] * 2
        assert slug(answers[-1]) == "too-many-failed-logins"
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert running.counted("throttled") == 2
        await still_serves(running)


async def test_previous_credentials_still_pass() -> None:
    previous = {"Authorization": "Basic c2NheWxlOnByZXZpb3Vz"}
    async with public_listener() as running:
        data = request("POST", PATH, headers=previous, body=order_confirmed_bytes())
        assert (await post(running, data)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "br, identity"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "Multipart/form-data; boundary=x"},
    ],
)
async def test_encoded_bodies_and_forms_are_refused(headers: dict[str, str]) -> None:
    async with public_listener() as running:
        data = request("POST", PATH, headers=LOGIN | headers, body=order_confirmed_bytes())
        answer = await post(running, data)
        assert (answer.status, slug(answer)) == (415, "unsupported-media-type")
        assert running.counted("unsupported_media_type") == 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/json"},
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "nonsense"},
        {"Content-Encoding": "identity"},
    ],
)
async def test_any_other_content_type_is_read_as_json(headers: dict[str, str]) -> None:
    async with public_listener() as running:
        data = request("POST", PATH, headers=LOGIN | headers, body=order_confirmed_bytes())
        assert (await post(running, data)).status == 200


async def test_body_over_the_limit_is_refused_as_soon_as_that_is_known() -> None:
    declared = request("POST", PATH, headers=LOGIN | {"Content-Length": str(BODY_LIMIT + 1)})
    chunked = request("POST", PATH, headers=LOGIN | {"Transfer-Encoding": "chunked"})
    async with public_listener() as running:
        answer = await post(running, declared)
        assert (answer.status, slug(answer)) == (413, "too-large")
        async with RawConnection(running.port) as connection:
            await connection.send(chunked)
            for _ in range(3):
                await connection.send(b"8000\r\n%b\r\n" % (b" " * 0x8000))
            late = await connection.answer()
        assert (late and late.status, slug(late)) == (413, "too-large")
        assert running.counted("too_large") == 2
        padding = b" " * (BODY_LIMIT - len(order_confirmed_bytes()))
        assert (await post(running, webhook(order_confirmed_bytes() + padding))).status == 200


async def test_slow_body_is_refused() -> None:
    async with public_listener(body_timeout_s=0.1) as running:
        answer = await post(running, webhook()[:-10])
        assert (answer.status, slug(answer)) == (408, "too-slow")
        assert running.counted("too_slow") == 1
        await still_serves(running)


async def test_client_that_goes_away_within_the_body_is_counted() -> None:
    async with public_listener() as running:
        async with RawConnection(running.port) as connection:
            await connection.send(webhook()[:-10])
            await until(lambda: running.listener.connections)
        await until(lambda: running.counted("disconnected") == 1)
        assert running.log.records == []
        await still_serves(running)


async def test_client_that_goes_away_before_the_answer_loses_nothing() -> None:
    async with public_listener() as running:
        running.log.gate.clear()
        async with RawConnection(running.port) as connection:
            await connection.send(webhook())
            await until(lambda: running.log.waiting)
        running.log.gate.set()
        await until(lambda: running.counted("accepted") == 1)
        assert len(running.log.records) == 1
        await still_serves(running)


@pytest.mark.parametrize(
    ("failure", "retry_after"),
    [
        (LogUnavailableError("queue_full", retry_after_s=0.2), "1"),
        (LogUnavailableError("not_writable", retry_after_s=4.1), "5"),
        (PermanentError("too_large_for_the_log"), "60"),
    ],
)
async def test_nothing_durable_is_answered_503(failure: Exception, retry_after: str) -> None:
    async with public_listener() as running:
        running.log.failure = failure
        answer = await post(running, webhook())
        assert (answer.status, slug(answer)) == (503, "unavailable")
        assert answer.headers["retry-after"] == retry_after
        assert running.counted("unavailable") == 1
        running.log.failure = None
        await still_serves(running)


async def test_no_webhook_is_taken_while_the_process_does_not_accept() -> None:
    async with public_listener() as running:
        running.accepting = False
        answer = await post(running, webhook())
        assert (answer.status, slug(answer)) == (503, "unavailable")
        assert "retry-after" in answer.headers
        assert running.log.records == []
        running.accepting = True
        await still_serves(running)


async def test_client_that_asks_first_is_told_to_go_on_only_with_credentials() -> None:
    body = order_confirmed_bytes()
    asking = {"Expect": "100-continue", "Content-Length": str(len(body))}
    async with public_listener() as running:
        async with RawConnection(running.port) as connection:
            await connection.send(request("POST", PATH, headers=LOGIN | asking))
            interim = await connection.answer()
            assert interim is not None
            assert interim.status == 100
            await connection.send(body)
            answer = await connection.answer()
            assert answer is not None
            assert answer.status == 200
        assert (await post(running, request("POST", PATH, headers=asking))).status == 401
        odd = LOGIN | asking | {"Expect": "200-ok"}
        assert (await post(running, request("POST", PATH, headers=odd))).status == 417


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("sent", "is_continued"),
    [(TRACE, True), (None, False), ("00-0-0-00", False), (TRACE[:-2] + "zz", False)],
)
async def test_trace_goes_on_from_a_valid_header(sent: str | None, is_continued: bool) -> None:
    async with public_listener() as running:
        headers = LOGIN | ({"traceparent": sent} if sent else {})
        await post(running, request("POST", PATH, headers=headers, body=order_confirmed_bytes()))
        (record,) = running.log.records
        version, trace_id, _, flags = record.headers["traceparent"].split("-")
        assert (version, len(flags)) == ("00", 2)
        assert (trace_id == TRACE[3:35]) == is_continued


async def test_each_webhook_writes_one_line_without_personal_data(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """P7."""
    caplog.set_level(logging.INFO)
    bodies = [
        order_confirmed_bytes(),
        order_confirmed_bytes({"payload.customer.email": ["Ilse.Brandt@example.org"]}),
        b'{"type": "customer-created", "payload": {"email": "Ilse.Brandt@example.org"}}',
        b'{"type": 5, "payload": {"email": "Ilse.Brandt@example.org"}}',
    ]
    async with public_listener() as running:
        for body in bodies:
            await post(running, webhook(body))
        await post(running, request("POST", PATH, body=bodies[0]))
        running.log.failure = LogUnavailableError("queue_full")
        await post(running, webhook())
    lines = [record for record in caplog.records if record.name == "relay.webhooks"]
    assert [(line.getMessage(), line.levelname) for line in lines] == [
        ("webhook.accepted", "INFO"),
        ("webhook.unreadable", "ERROR"),
        ("webhook.ignored", "INFO"),
        ("webhook.refused", "INFO"),
        ("webhook.refused", "INFO"),
        ("webhook.refused", "WARNING"),
    ]
    accepted: dict[str, Any] = vars(lines[0])
    assert accepted["order_id"] == "10000001"
    assert accepted["event_type"] == "order-confirmed"
    assert accepted["outcome"] == "accepted"
    assert accepted["duration_s"] >= 0
    assert accepted["size_bytes"] == len(bodies[0])
    everything = " ".join(str(vars(line)) for line in lines)
    for secret in ("Brandt", "example.org", "6010000000017", AUTHORIZATION[6:], "right:word"):
        assert secret not in everything


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", PATH, 405, "POST"),
        ("HEAD", PATH, 405, "POST"),
        ("OPTIONS", PATH, 405, "POST"),
        ("PUT", PATH, 405, "POST"),
        ("DELETE", PATH, 405, "POST"),
        ("PROPFIND", PATH, 405, "POST"),
        ("TRACE", PATH, 405, "POST"),
        ("POST", "/healthz", 405, "GET"),
        ("HEAD", "/healthz", 405, "GET"),
        ("GET", "/", 404, None),
        ("POST", PATH + "/", 404, None),
        ("POST", "/webhooks", 404, None),
        ("POST", "/WEBHOOKS/SCAYLE", 404, None),
        ("GET", "/metrics", 404, None),
        ("GET", "/%FF%00", 404, None),
        ("OPTIONS", "*", 404, None),
    ],
)
async def test_other_methods_and_paths_are_refused(
    method: str, path: str, status: int, allow: str | None
) -> None:
    async with public_listener() as running, RawConnection(running.port) as connection:
        await connection.send(request(method, path, headers=LOGIN))
        head = await connection.reader.readuntil(b"\r\n\r\n")
        assert int(head.split()[1]) == status
        assert (f"Allow: {allow}".encode() in head) == (allow is not None)
        assert b"problem+json" in head


async def test_query_and_absolute_form_reach_the_same_path() -> None:
    body = order_confirmed_bytes()
    async with public_listener() as running:
        for target in (f"{PATH}?a=b", f"http://elsewhere{PATH}"):
            data = request("POST", target, headers=LOGIN, body=body)
            assert (await post(running, data)).status == 200
        alive = await post(running, request("GET", "/healthz"))
        assert (alive.status, orjson.loads(alive.body)) == (200, {"alive": True})


BODY = order_confirmed_bytes()
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: {AUTHORIZATION}\r\n".encode()
HOSTILE = {
    "nothing but line ends": b"\r\n\r\n\r\n\r\n",
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "unknown method": b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
    "lower-case method": b"post / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no version": b"GET /nothing\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version 9.9": b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
    "long request line": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    "long header": HEAD + b"X-Long: " + b"a" * 100_000 + b"\r\n\r\n",
    "many headers": HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(5000)) + b"\r\n",
    "header without colon": HEAD + b"nonsense\r\n\r\n",
    "folded header": HEAD + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    "zero byte in a header": HEAD + b"X: a\x00b\r\n\r\n",
    "space before the colon": HEAD + b"Content-Length : 2\r\n\r\n{}",
    "invalid UTF-8 in a header": HEAD + b"X: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
    "invalid UTF-8 in credentials": b"POST /webhooks/scayle HTTP/1.1\r\nHost: x\r\n"
    b"Authorization: Basic \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
    "invalid UTF-8 in the content type": HEAD
    + b"Content-Type: \xff\r\nContent-Length: 2\r\n\r\n{}",
    "invalid UTF-8 in traceparent": HEAD + b"traceparent: 00-\xff\r\nContent-Length: 2\r\n\r\n{}",
    "invalid UTF-8 in the path": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "huge length": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "length that is none": HEAD + b"Content-Length: two\r\n\r\n{}",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunked": HEAD
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "unknown transfer encoding": HEAD + b"Transfer-Encoding: zstd\r\n\r\n{}",
    "broken chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "huge chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
    "no body": HEAD + b"\r\n",
    "upgrade": HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n{}",
    "deep JSON": HEAD
    + b"Content-Length: 60000\r\n\r\n"
    + b'{"type":"order-confirmed","x":'.ljust(60_000, b"["),
    "bomb of numbers": HEAD + b"Content-Length: 40009\r\n\r\n" + b'{"type": ' + b"9" * 40_000,
    "CONNECT": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "bad port in the target": b"GET http://x:99999999/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "bad host in the target": b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_request_is_refused_and_harms_nobody(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No 500, no traceback, no record; others are served as before."""
    async with (
        public_listener(head_timeout_s=0.3, body_timeout_s=0.3) as running,
        RawConnection(running.port) as neighbour,
    ):
        await neighbour.send(request("GET", "/healthz"))
        assert await neighbour.answer() is not None
        answer = await exchange(running.port, HOSTILE[name])
        if answer is not None:
            assert 400 <= answer.status < 500
            assert slug(answer)
        assert running.log.records == []
        await still_serves(running)
        await neighbour.send(request("GET", "/healthz"))
        served = await neighbour.answer()
        assert served is not None
        assert served.status == 200
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("at", [1, 20, 60, 150, 200])
async def test_request_cut_anywhere_and_followed_by_garbage_is_refused(at: int) -> None:
    async with public_listener(head_timeout_s=0.3, body_timeout_s=0.3) as running:
        answer = await exchange(running.port, webhook()[:at] + b"\x00\xff\r\n\r\n")
        assert answer is None or 400 <= answer.status < 500
        assert running.log.records == []
        await still_serves(running)
