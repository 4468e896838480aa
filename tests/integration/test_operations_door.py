"""The operations door over real sockets: what is shown, who may change what, what is refused."""

from typing import Any
from urllib.parse import quote

import orjson
import pytest

from service.domain.errors import InDoubtError, LanePausedError, RetryableError
from tests.fakes.operations import AT_MS, LEDGER_AWAY, RECORD
from tests.fakes.operations_listener import AUTHORIZATION, OperationsListener, operations_listener
from tests.fakes.raw_http import exchange, request

LOGIN = {"Authorization": AUTHORIZATION}
WRONG = {"Authorization": "Basic eDp5"}
HELD = "main:order:2"  # the fake's effects are one in each state
IN_DOUBT = "main:earn:1"
APPLIED = "main:earn:2"


async def ask(
    running: OperationsListener,
    method: str,
    path: str,
    document: Any = None,
    *,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    body = None if document is None else orjson.dumps(document)
    data = request(method, path, headers=headers or {}, body=body)
    answer = await exchange(running.port, data)
    assert answer is not None
    return answer.status, orjson.loads(answer.body)


def effect(key: str, action: str = "") -> str:
    return f"/api/effects/{quote(key, safe='')}{action}"


async def test_health_and_readiness_are_told_apart() -> None:
    async with operations_listener() as running:
        assert await ask(running, "GET", "/healthz") == (200, {"alive": True})
        assert await ask(running, "GET", "/readyz") == (
            200,
            {"ready": True, "reasons": [], "degraded": []},
        )
        running.reasons.append("the log is not open")
        assert await ask(running, "GET", "/healthz") == (200, {"alive": True})
        assert await ask(running, "GET", "/readyz") == (
            503,
            {"ready": False, "reasons": ["the log is not open"], "degraded": []},
        )


async def test_metrics_are_in_prometheus_text_format() -> None:
    async with operations_listener() as running:
        running.metrics.webhooks.labels(outcome="accepted").inc(3)
        answer = await exchange(running.port, request("GET", "/metrics"))
        assert answer is not None
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert b'relay_webhooks_total{outcome="accepted"} 3.0' in answer.body


async def test_effects_are_listed_filtered_and_paged() -> None:
    async with operations_listener() as running:
        status, page = await ask(running, "GET", "/api/effects?limit=4")
        assert status == 200
        assert len(page["items"]) == 4
        keys = [row["effect_key"] for row in page["items"]]
        while page["next"] is not None:
            path = f"/api/effects?limit=4&after={quote(page['next'])}"
            _, page = await ask(running, "GET", path)
            keys += [row["effect_key"] for row in page["items"]]
        assert keys == sorted(running.operations.effects)
        _, page = await ask(running, "GET", "/api/effects?state=held&state=in_doubt")
        assert [row["effect_key"] for row in page["items"]] == [IN_DOUBT, HELD]
        _, page = await ask(running, "GET", "/api/effects?order_id=2&kind=earn")
        assert [row["effect_key"] for row in page["items"]] == [APPLIED]


async def test_one_effect_and_one_order_are_shown() -> None:
    async with operations_listener() as running:
        status, shown = await ask(running, "GET", effect(HELD))
        assert (status, shown["state"], shown["attempts"]) == (200, "held", [{"attempt": 1}])
        status, shown = await ask(running, "GET", "/api/orders/2")
        assert status == 200
        assert [row["effect_key"] for row in shown["effects"]] == [APPLIED, HELD]


@pytest.mark.parametrize(
    "path",
    [
        effect("main:order:99"),
        effect("a/b\x00ä"),
        "/api/orders/99",
        "/api/orders/",
        "/api/orders/%FF",
        "/api/dead-letters/99",
        "/api/nothing",
        "/api",
        "/",
    ],
)
async def test_what_does_not_exist_is_404(path: str) -> None:
    async with operations_listener() as running:
        status, document = await ask(running, "GET", path)
        assert (status, document["type"]) == (404, "urn:loyalty-relay:problem:not-found")


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/api/effects?state=done", "state"),
        ("/api/effects?limit=0", "limit"),
        ("/api/effects?colour=red", "colour"),
        ("/api/effects/x?limit=5", "limit"),
        ("/api/effects/" + "x" * 201, "key"),
        ("/api/orders/" + "x" * 201, "order_id"),
        ("/api/dead-letters?since=yesterday", "since"),
        ("/api/dead-letters?after=x", "after"),
        ("/api/dead-letters/x", "id"),
        ("/api/dead-letters/99999999999999999999", "id"),
        ("/api/lanes?x", "x"),
    ],
)
async def test_bad_parameters_are_named(path: str, parameter: str) -> None:
    async with operations_listener() as running:
        status, document = await ask(running, "GET", path)
        assert (status, document["type"], document["parameter"]) == (
            400,
            "urn:loyalty-relay:problem:bad-parameter",
            parameter,
        )


async def test_held_and_doubtful_effects_are_changed_and_it_is_recorded_by_whom() -> None:
    async with operations_listener() as running:
        status, shown = await ask(running, "POST", effect(HELD, "/release"), headers=LOGIN)
        assert (status, shown["state"]) == (200, "due")
        status, shown = await ask(running, "POST", effect(IN_DOUBT, "/look-up"), headers=LOGIN)
        assert (status, shown["verdict"]) == (200, "found")
        assert shown["effect"]["state"] == "applied"
        status, shown = await ask(running, "POST", effect(HELD, "/reject"), headers=LOGIN)
        assert (status, shown["type"]) == (409, "urn:loyalty-relay:problem:wrong-state")
        assert running.operations.changes == [
            ("release", HELD, "operator"),
            ("look_up", IN_DOUBT, "operator"),
        ]


async def test_dead_letters_are_listed_without_their_bytes() -> None:
    """P7."""
    async with operations_listener() as running:
        answer = await exchange(running.port, request("GET", "/api/dead-letters"))
        assert answer is not None
        assert b"example.org" not in answer.body
        assert [row["id"] for row in orjson.loads(answer.body)["items"]] == [1, 2, 3]
        _, page = await ask(running, "GET", "/api/dead-letters?reason=unreadable&limit=1")
        assert ([row["id"] for row in page["items"]], page["next"]) == ([1], "1")
        path = f"/api/dead-letters?since={AT_MS + 2}&until=2100-01-01T00:00:00Z&open=true"
        _, page = await ask(running, "GET", path)
        assert [row["id"] for row in page["items"]] == [2, 3]


async def test_bytes_of_a_dead_letter_are_for_the_operator_alone() -> None:
    """P7."""
    path = "/api/dead-letters/1"
    async with operations_listener() as running:
        status, shown = await ask(running, "GET", path)
        assert (status, shown["reason"]) == (200, "unreadable")
        assert not {"record", "record_base64"} & shown.keys()
        _, shown = await ask(running, "GET", path, headers=LOGIN)
        assert shown["record"] == RECORD.decode()
        _, shown = await ask(running, "GET", "/api/dead-letters/3", headers=LOGIN)
        assert shown["record_base64"] == "//4="
        status, _ = await ask(running, "GET", path, headers=WRONG)
        assert status == 401
    async with operations_listener(has_password=False) as running:
        _, shown = await ask(running, "GET", path, headers=LOGIN)
        assert "record" not in shown


@pytest.mark.parametrize("action", ["replay", "dismiss"])
@pytest.mark.parametrize(
    ("selection", "done"),
    [
        ({"ids": [2]}, [2]),
        ({"reason": "unreadable"}, [1, 3]),
        ({"since": AT_MS + 2, "until": AT_MS + 3}, [2]),
        ({"all": True}, [1, 2, 3]),
    ],
)
async def test_selected_dead_letters_are_changed(
    action: str, selection: dict[str, Any], done: list[int]
) -> None:
    path = f"/api/dead-letters/{action}"
    async with operations_listener() as running:
        status, document = await ask(running, "POST", path, selection, headers=LOGIN)
        assert (status, document["done"]) == (200, len(done))
        assert document["items"] == [{"id": number, "problem": ""} for number in done]
        assert running.operations.changes == [(action, str(number), "operator") for number in done]


async def test_each_dead_letter_that_cannot_be_changed_says_why() -> None:
    path = "/api/dead-letters/replay"
    async with operations_listener() as running:
        await ask(running, "POST", path, {"ids": [1]}, headers=LOGIN)
        status, document = await ask(running, "POST", path, {"ids": [1, 2, 9]}, headers=LOGIN)
        assert (status, document["done"]) == (200, 1)
        assert [item["problem"] for item in document["items"]] == [
            "already_closed",
            "",
            "no_such_dead_letter: 9",
        ]


async def test_lanes_are_listed_and_released() -> None:
    path = "/api/lanes/sales/release"
    async with operations_listener() as running:
        _, page = await ask(running, "GET", "/api/lanes")
        assert [row["lane"] for row in page["items"]] == ["contacts", "sales", "other"]
        status, document = await ask(running, "POST", path, headers=LOGIN)
        assert (status, document) == (200, {"lane": "sales", "released": True})
        assert (await ask(running, "POST", path, headers=LOGIN))[0] == 409
        assert (await ask(running, "POST", "/api/lanes/fast/release", headers=LOGIN))[0] == 404


CHANGES = [
    effect(HELD, "/release"),
    effect(HELD, "/reject"),
    effect(IN_DOUBT, "/look-up"),
    "/api/dead-letters/replay",
    "/api/dead-letters/dismiss",
    "/api/lanes/sales/release",
]


@pytest.mark.parametrize("path", CHANGES)
async def test_nothing_is_changed_without_the_operators_password(path: str) -> None:
    async with operations_listener() as running:
        assert (await ask(running, "POST", path, {"all": True}))[0] == 401
        assert (await ask(running, "POST", path, {"all": True}, headers=WRONG))[0] == 401
        cross = LOGIN | {"Sec-Fetch-Site": "cross-site"}
        assert (await ask(running, "POST", path, {"all": True}, headers=cross))[0] == 403
        assert (await ask(running, "GET", path, headers=LOGIN))[0] in (400, 405)
        assert running.operations.changes == []


@pytest.mark.parametrize("path", CHANGES)
async def test_without_a_password_set_nothing_can_be_changed_and_the_answer_says_so(
    path: str,
) -> None:
    async with operations_listener(has_password=False) as running:
        status, document = await ask(running, "POST", path, {"all": True}, headers=LOGIN)
        assert (status, document["type"]) == (
            403,
            "urn:loyalty-relay:problem:no-operations-password",
        )
        assert "RELAY_OPERATIONS_PASSWORD" in document["detail"]
        assert running.operations.changes == []


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"{", 400),
        ({}, b"", 400),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"all=true", 415),
        ({"Content-Encoding": "gzip"}, b"{}", 415),
        ({}, b" " * 70_000, 413),
    ],
)
async def test_bodies_that_select_nothing_are_refused(
    headers: dict[str, str], body: bytes, status: int
) -> None:
    async with operations_listener() as running:
        data = request("POST", "/api/dead-letters/replay", headers=LOGIN | headers, body=body)
        answer = await exchange(running.port, data)
        assert answer is not None
        assert answer.status == status
        assert running.operations.changes == []


@pytest.mark.parametrize("path", ["/api/effects", "/api/dead-letters", "/api/lanes", effect(HELD)])
async def test_ledger_that_does_not_answer_is_503(path: str) -> None:
    async with operations_listener() as running:
        running.operations.failure = LEDGER_AWAY
        answer = await exchange(running.port, request("GET", path))
        assert answer is not None
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")


async def test_role_without_a_ledger_has_no_api() -> None:
    async with operations_listener(has_ledger=False) as running:
        assert (await ask(running, "GET", "/api/effects"))[0] == 404
        assert (await ask(running, "GET", "/readyz"))[0] == 200


async def test_bug_is_a_500_without_its_text_and_a_line_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with operations_listener() as running:
        running.operations.failure = ValueError("ilse@example.org")
        status, document = await ask(running, "GET", "/api/lanes")
        assert status == 500
        assert "example" not in str(document)
        assert (await ask(running, "GET", "/healthz"))[0] == 200
    (line,) = [record for record in caplog.records if record.exc_info]
    assert (line.getMessage(), line.name) == ("request.failed", "relay.web")


@pytest.mark.parametrize(
    "error", [RetryableError("no_answer"), LanePausedError("unknown_refusal"), InDoubtError("x")]
)
async def test_look_up_that_splio_does_not_answer_is_503(error: Exception) -> None:
    async with operations_listener() as running:
        running.operations.failure = error
        path = effect(IN_DOUBT, "/look-up")
        status, document = await ask(running, "POST", path, headers=LOGIN)
        assert status == 503
        assert document["type"].endswith("no-answer")


async def test_shapes_are_shown_with_their_differences() -> None:
    async with operations_listener() as running:
        status, page = await ask(running, "GET", "/api/shapes")
        assert (status, page["next"]) == (200, None)
        created, confirmed = page["items"]
        assert (created["source"], created["differences"]) == ("webhook:customer-created", None)
        assert (confirmed["source"], confirmed["count"]) == ("webhook:order-confirmed", 1)
        assert confirmed["fields"] == {"payload": "array", "type": "string"}
        assert {
            "path": "payload",
            "difference": "other_type",
            "seen": "array",
            "assumed": "object",
            "basis": "documented",
        } in confirmed["differences"]
        status, refused = await ask(running, "GET", "/api/shapes?limit=5")
        assert (status, refused["parameter"]) == (400, "limit")


async def test_shapes_need_no_ledger_and_are_then_of_this_process() -> None:
    async with operations_listener(has_ledger=False) as running:
        status, page = await ask(running, "GET", "/api/shapes")
        assert (status, page["is_shared"], len(page["items"])) == (200, False, 2)
        assert (await ask(running, "GET", "/api/lanes"))[0] == 404
