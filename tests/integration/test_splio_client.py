"""The Splio client over real sockets: what each kind of reply, silence or break leads to."""

import asyncio
from collections.abc import AsyncIterator, Callable

import orjson
import pytest

from service.domain.effects import (
    EffectKey,
    Lane,
    Prerequisite,
    PrerequisiteKind,
    RenderedRequest,
)
from service.domain.errors import (
    InDoubtError,
    LanePausedError,
    PermanentError,
    RelayError,
    RetryableError,
    StartupError,
)
from service.domain.ports import (
    Accepted,
    AlreadyExists,
    Answer,
    Missing,
    OrderMatch,
    Step,
    UnknownCard,
)
from service.splio.client import SplioClient
from service.splio.config import SplioConfig
from tests.fakes.splio_server import (
    Action,
    closed_port,
    cut_short,
    disconnect,
    drip,
    hang,
    jwt,
    problem,
    reply,
    reset,
)
from tests.integration.splio_bench import TRACE, SplioBench, failure

ORDER = RenderedRequest(
    path="/data/v1/orders",
    body=b'{"external_id":"7","card_code":"21","total_price":1.50,"products":'
    b'[{"product_id":"A","unit_price":1.50,"quantity":1}]}',
)
CREDIT = RenderedRequest(
    path="/loyalty/v1/members/21/credit",
    body=b'{"nq_points_quantity":3,"q_points_quantity":0,"context":"main:earn:7"}',
    idempotency_key="k",
)
PRODUCT = Prerequisite(
    PrerequisiteKind.PRODUCT, "A", "/data/v1/products", b'{"external_id":"A","name":"A"}'
)
OTHER_DEADLINE_S = 5.0


class Bench(SplioBench):
    """Posts an order and a credit, a permit each."""

    async def post(self, *, deadline_s: float = OTHER_DEADLINE_S) -> Answer:
        permit = await self.client.permit(Lane.SALES)
        return await self.client.post_order(
            ORDER,
            permit=permit,
            deadline_s=self.clock.monotonic_s() + deadline_s,
            traceparent=TRACE,
        )

    async def book(self, *, deadline_s: float = OTHER_DEADLINE_S) -> Answer:
        permit = await self.client.permit(Lane.OTHER)
        return await self.client.credit(
            CREDIT,
            permit=permit,
            deadline_s=self.clock.monotonic_s() + deadline_s,
            traceparent=TRACE,
        )


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Bench.begin() as bench:
        yield bench


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - it looks at another side of a socket
            await asyncio.sleep(0.005)


async def test_order_and_points_are_posted_with_token_and_trace(bench: Bench) -> None:
    assert await bench.post() == Accepted(201)
    assert await bench.book() == Accepted(202)

    login, order, credit = bench.server.received
    assert orjson.loads(login.body) == {"api_key": "key"}
    assert (order.method, order.path, order.body) == ("POST", ORDER.path, ORDER.body)
    assert (credit.path, credit.body) == (CREDIT.path, CREDIT.body)
    for sent in (order, credit):
        assert sent.headers["Authorization"].startswith("Bearer ")
        assert sent.headers["traceparent"] == TRACE
        assert sent.headers["Content-Type"] == "application/json"
    assert "Authorization" not in login.headers
    assert login.connection == order.connection == credit.connection


async def test_steps_of_a_request_are_reported_in_their_order(bench: Bench) -> None:
    await bench.post()

    assert bench.steps == [Step.REQUEST_STARTED, Step.REQUEST_SENT, Step.REPLY_RECEIVED]


async def test_nothing_has_arrived_when_a_request_is_started_and_all_of_it_when_it_is_sent(
    bench: Bench,
) -> None:
    """The steps bracket the write: what dies at the first was not sent, at the second was."""

    class Died(BaseException):
        pass

    def die_at(step: Step) -> Callable[[Step], None]:
        def hook(reached: Step) -> None:
            if reached is step:
                raise Died

        return hook

    await bench.post()
    for step, arrived in ((Step.REQUEST_STARTED, 0), (Step.REQUEST_SENT, 1)):
        before = len(bench.server.paths())
        bench.on_step = die_at(step)
        attempt = asyncio.ensure_future(bench.post(deadline_s=1))
        with pytest.raises((Died, InDoubtError)):
            await attempt
        bench.on_step = bench.steps.append
        await bench.book()
        assert len(bench.server.paths()) - before - 1 == arrived


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (problem(400, "external_id", "wrong_value", "Order ... already exists."), AlreadyExists),
        (problem(400, "product_id", "wrong_value", "Product not found for external id A"), Missing),
    ],
)
async def test_refused_order_with_a_remedy_is_an_answer(
    bench: Bench, action: Action, expected: type[Answer]
) -> None:
    bench.server.then(action)

    assert isinstance(await bench.post(), expected)


async def test_unknown_card_is_an_answer(bench: Bench) -> None:
    bench.server.then(problem(404, "card_code", "wrong_value", "Membership not found ..."))

    assert await bench.book() == UnknownCard(404)


@pytest.mark.parametrize(
    ("action", "error", "reason"),
    [
        (problem(400, "x", "wrong_type", "should be of type int"), PermanentError, "refused"),
        (problem(400, "x", "odd", "new"), LanePausedError, "unknown_refusal"),
        (reply(404, b"<html>"), LanePausedError, "unknown_refusal"),
        (reply(429, {"message": "API rate limit exceeded"}), RetryableError, "rate_limited"),
        (reply(500), InDoubtError, "server_error"),
        (reply(503, b"<html>down</html>"), InDoubtError, "server_error"),
        (reply(408), InDoubtError, "server_error"),
        (reply(200, b"<html>portal</html>"), InDoubtError, "unreadable_reply"),
        (reply(201, b"\x00\xff\xfe"), InDoubtError, "unreadable_reply"),
        (reply(302, headers={"Location": "/elsewhere"}), LanePausedError, "unknown_refusal"),
        (reply(201, b'"' + b"x" * (1 << 20) + b'"'), InDoubtError, "unreadable_reply"),
        (disconnect, InDoubtError, "disconnected"),
        (reset, InDoubtError, "disconnected"),
        (cut_short(b'{"external_id":"7"}'), InDoubtError, "disconnected"),
    ],
)
@pytest.mark.parametrize("operation", ["post", "book"])
async def test_every_other_reply_raises_what_comes_next_and_is_not_repeated(
    bench: Bench, operation: str, action: Action, error: type[RelayError], reason: str
) -> None:
    """P4: whatever comes back, one POST leaves."""
    bench.server.then(action)

    raised = await failure(getattr(bench, operation)())

    assert type(raised) is error
    assert raised.reason == reason
    assert len(bench.server.paths()) == 1
    assert bench.steps[:2] == [Step.REQUEST_STARTED, Step.REQUEST_SENT]


async def test_redirect_is_not_followed(bench: Bench) -> None:
    bench.server.then(reply(307, headers={"Location": f"{bench.server.url}/elsewhere"}))

    await failure(bench.post())

    assert bench.server.paths() == ["POST /data/v1/orders"]


async def test_silence_is_in_doubt_at_the_deadline(bench: Bench) -> None:
    released = asyncio.Event()
    await bench.post()
    bench.server.then(hang(released))

    raised = await failure(bench.post(deadline_s=0.2))

    assert type(raised) is InDoubtError
    assert raised.reason == "timed_out"
    released.set()


async def test_dripping_reply_is_in_doubt_at_the_deadline(bench: Bench) -> None:
    released = asyncio.Event()
    await bench.post()
    bench.server.then(drip(b'{"external_id":"7"}', until=released))

    raised = await failure(bench.post(deadline_s=0.2))

    assert type(raised) is InDoubtError
    released.set()


async def test_reply_beyond_the_limit_is_not_read_to_its_end(bench: Bench) -> None:
    never = asyncio.Event()
    bench.server.then(drip(b"x" * (1 << 21), until=never))

    raised = await failure(bench.post())

    assert raised.reason == "unreadable_reply"
    never.set()


async def test_request_whose_deadline_has_passed_is_not_begun(bench: Bench) -> None:
    await bench.post()
    before = len(bench.server.received)
    bench.steps.clear()

    raised = await failure(bench.post(deadline_s=-0.001))

    assert type(raised) is RetryableError
    assert raised.reason == "deadline_passed"
    assert bench.steps == []
    assert await bench.post() == Accepted(201)
    assert len(bench.server.received) == before + 1


async def test_deadline_that_passes_with_a_connection_in_hand_leaks_none(bench: Bench) -> None:
    """The check stands right before the write; what it refuses was never on the wire."""
    client = await bench.open(limits={Lane.SALES: 1.0}, connections=2)
    first, *late = [await client.permit(Lane.SALES) for _ in range(2)]
    deadline_s = bench.clock.monotonic_s() + 0.3
    await client.post_order(ORDER, permit=first, deadline_s=deadline_s + 5, traceparent="")
    for permit in late:
        raised = await failure(
            client.post_order(
                ORDER,
                permit=permit,
                deadline_s=bench.clock.monotonic_s() + 0.3,
                traceparent="",
            )
        )
        assert raised.reason == "deadline_passed"
    assert len(bench.server.paths()) == 1
    for _ in range(3):
        assert await bench.book() == Accepted(202)


async def test_stalled_process_sends_nothing_after_its_deadline(bench: Bench) -> None:
    """A process that stood still between permit and write must not write late."""
    await bench.post()
    permit = await bench.client.permit(Lane.SALES)
    attempt = asyncio.ensure_future(
        bench.client.post_order(
            ORDER,
            permit=permit,
            deadline_s=bench.clock.monotonic_s() + 0.01,
            traceparent="",
        )
    )
    until_s = bench.clock.monotonic_s() + 0.02
    while bench.clock.monotonic_s() < until_s:
        pass

    assert (await failure(attempt)).reason == "deadline_passed"
    assert len(bench.server.paths()) == 1


async def test_nobody_listening_is_a_retry(bench: Bench) -> None:
    await bench.open(url=f"http://127.0.0.1:{closed_port()}")

    raised = await failure(bench.post())

    assert type(raised) is RetryableError
    assert raised.reason == "not_connected"
    assert bench.steps == []


def idle_connections(client: SplioClient) -> int:
    """Connections that the client would write the next request to."""
    connector = client._exchange._transport._session.connector
    assert connector is not None
    return sum(
        protocol.is_connected() for idle in connector._conns.values() for protocol, _ in idle
    )


async def test_idle_connection_that_the_server_closed_is_not_written_to(bench: Bench) -> None:
    for _ in range(3):
        assert await bench.post() == Accepted(201)
        bench.server.drop_connections()
        await eventually(lambda: idle_connections(bench.client) == 0)

    assert len(bench.server.paths()) == 3


async def test_connection_that_goes_while_its_request_waits_is_a_retry(bench: Bench) -> None:
    """Nothing was written on it, so nothing is in doubt."""
    client = await bench.open(limits={Lane.SALES: 10.0})
    bench.server.then(reply(429, {}, {"rateLimit-reset": "3"}))
    first, second = [await client.permit(Lane.SALES) for _ in range(2)]
    far_s = bench.clock.monotonic_s() + 60
    await failure(client.post_order(ORDER, permit=first, deadline_s=far_s, traceparent=""))
    attempt = asyncio.ensure_future(
        client.post_order(ORDER, permit=second, deadline_s=far_s, traceparent="")
    )
    await eventually(lambda: idle_connections(client) == 0)

    bench.server.drop_connections()

    raised = await failure(attempt)
    assert type(raised) is RetryableError
    assert raised.reason == "not_connected"
    assert len(bench.server.paths()) == 1


async def test_post_on_a_connection_that_breaks_under_it_leaves_once(bench: Bench) -> None:
    """aiohttp repeats GET on a stale connection by itself; a POST it must not."""
    await bench.post()
    bench.server.then(disconnect)

    assert type(await failure(bench.post())) is InDoubtError

    assert len(bench.server.paths()) == 2


async def test_cancelled_request_gives_everything_back(bench: Bench) -> None:
    client = await bench.open(limits={Lane.SALES: 20.0}, connections=1)
    released = asyncio.Event()
    bench.server.then(hang(released))
    attempt = asyncio.ensure_future(bench.post())
    await eventually(lambda: len(bench.server.paths()) == 1)

    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt

    assert await bench.post() == Accepted(201)
    assert client is bench.client
    released.set()


async def test_refused_token_is_renewed_and_the_request_repeated_once(bench: Bench) -> None:
    bench.server.then(reply(401, b"Authentication failed."))

    assert await bench.post() == Accepted(201)

    assert bench.server.tokens == 2
    first, second = [r for r in bench.server.received if r.path == ORDER.path]
    assert first.headers["Authorization"] != second.headers["Authorization"]


async def test_second_refusal_of_the_token_ends_the_attempt(bench: Bench) -> None:
    bench.server.then(reply(401, b"no"), reply(401, b"no"))

    raised = await failure(bench.post())

    assert type(raised) is RetryableError
    assert raised.reason == "unauthorized"
    assert len(bench.server.paths()) == 2


async def test_wrong_key_pauses_and_sends_nothing(bench: Bench) -> None:
    bench.server.authentications.append(
        problem(400, "username", "authentication.failed", "User authentication failed.")
    )

    raised = await failure(bench.post())

    assert type(raised) is LanePausedError
    assert raised.reason == "authentication_failed"
    assert bench.server.paths() == []


@pytest.mark.parametrize(
    "action", [reply(503), reply(200, b"<html>"), reply(200, {"token": "a b\n"}), disconnect]
)
async def test_no_token_is_a_retry_and_sends_nothing(bench: Bench, action: Action) -> None:
    bench.server.authentications.append(action)

    raised = await failure(bench.post())

    assert type(raised) is RetryableError
    assert raised.reason == "unauthorized"
    assert bench.server.paths() == []
    assert await bench.post() == Accepted(201)


async def test_token_that_does_not_come_in_time_is_not_waited_for(bench: Bench) -> None:
    released = asyncio.Event()
    bench.server.authentications.append(hang(released))

    raised = await failure(bench.post(deadline_s=0.1))

    assert raised.reason == "deadline_passed"
    released.set()


async def test_many_first_requests_authenticate_once(bench: Bench) -> None:
    await asyncio.gather(*(bench.post() for _ in range(10)), *(bench.book() for _ in range(10)))

    assert bench.server.tokens == 1


async def test_ended_token_is_replaced_before_the_request(bench: Bench) -> None:
    bench.server.authentications.append(
        reply(200, {"token": jwt({"iat": 0, "exp": 0.2, "jti": "short"})})
    )
    await bench.post()
    await asyncio.sleep(0.25)

    assert await bench.post() == Accepted(201)
    assert bench.server.tokens == 1
    assert len(bench.server.received) == 4


async def test_429_is_obeyed(bench: Bench) -> None:
    client = await bench.open(limits={Lane.SALES: 100.0})
    bench.server.then(reply(429, {"message": "API rate limit exceeded"}, {"rateLimit-reset": "1"}))

    began_s = bench.clock.monotonic_s()
    raised = await failure(bench.post())
    assert isinstance(raised, RetryableError)
    assert raised.retry_after_s == 1.0
    permit = await client.permit(Lane.SALES)
    permit.hand_back()

    assert bench.clock.monotonic_s() - began_s >= 1.0


async def test_headers_are_shown_and_slow_a_shared_lane(bench: Bench) -> None:
    client = await bench.open(limits={Lane.SALES: 10.0})
    assert bench.value("relay_splio_rate_remaining", lane="sales") == -1
    headers = {"rateLimit-limit": "10", "rateLimit-remaining": "5", "rateLimit-reset": "1"}
    bench.server.then(reply(201, {"external_id": "7"}, headers))
    began_s = bench.clock.monotonic_s()
    await bench.post()

    (await client.permit(Lane.SALES)).hand_back()

    assert bench.clock.monotonic_s() - began_s >= 0.4
    assert bench.value("relay_splio_rate_remaining", lane="sales") == 5


@pytest.mark.parametrize("reserves", [True, False])
async def test_checkout_goes_before_bookings_where_it_has_a_part(
    bench: Bench, reserves: bool
) -> None:
    client = await bench.open(limits={Lane.OTHER: 5.0}, reserves_checkout=reserves)
    order: list[str] = []

    async def take(who: str, *, reserved: bool) -> None:
        await client._exchange.permit(Lane.OTHER, reserved=reserved)
        order.append(who)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(take("booking", reserved=False))
        tasks.create_task(take("checkout", reserved=True))

    assert (order.index("checkout") < len(order) - 2) is reserves


async def test_outage_opens_the_breaker_and_an_answer_closes_it(bench: Bench) -> None:
    client = await bench.open(breaker_failures=3, breaker_first_pause_s=1.0)
    bench.server.then(*[reply(503)] * 3)
    for _ in range(3):
        assert type(await failure(bench.post())) is InDoubtError
    assert bench.value("relay_breaker_open") == 1
    sent = len(bench.server.received)

    waiting = [asyncio.ensure_future(client.permit(lane)) for lane in Lane]
    await asyncio.sleep(0.1)
    assert not any(permit.done() for permit in waiting)
    await eventually(lambda: any(permit.done() for permit in waiting))
    (probe,) = [permit.result() for permit in waiting if permit.done()]
    assert len(bench.server.received) == sent
    probe.hand_back()
    await eventually(lambda: sum(permit.done() for permit in waiting) == 2)
    probe = next(p.result() for p in waiting if p.done() and p.result() is not probe)
    await client.post_order(
        ORDER, permit=probe, deadline_s=bench.clock.monotonic_s() + 5, traceparent=""
    )

    await asyncio.gather(*waiting)
    assert bench.value("relay_breaker_open") == 0


async def test_refusals_do_not_open_the_breaker(bench: Bench) -> None:
    await bench.open(breaker_failures=2)
    for _ in range(5):
        bench.server.then(reply(400, {}))
        await failure(bench.post())

    assert bench.value("relay_breaker_open") == 0


async def test_requests_are_counted_by_operation_and_answer(bench: Bench) -> None:
    for action in (reply(500), reply(404), reply(418), disconnect):
        bench.server.then(action)
        await failure(bench.post())
    await bench.post()

    counted = {
        answer: bench.value("relay_splio_requests_total", operation="post_order", answer=answer)
        for answer in ("2xx", "400", "404", "4xx", "5xx", "none")
    }
    assert counted == {"2xx": 1, "400": 0, "404": 1, "4xx": 1, "5xx": 1, "none": 1}
    assert bench.value("relay_splio_request_duration_seconds_count", operation="post_order") == 5


async def test_prerequisite_is_created_once_for_all_who_ask(bench: Bench) -> None:
    await asyncio.gather(*(bench.client.create(PRODUCT, traceparent=TRACE) for _ in range(5)))

    assert bench.server.paths() == ["POST /data/v1/products"]
    assert bench.value("relay_prerequisites_created_total", kind="product") == 1


async def test_prerequisite_that_exists_already_is_fine(bench: Bench) -> None:
    bench.server.then(problem(400, "external_id", "wrong_value", "Product A already exists."))

    await bench.client.create(PRODUCT, traceparent=TRACE)

    assert bench.value("relay_prerequisites_created_total", kind="product") == 0


@pytest.mark.parametrize(
    ("action", "error", "reason"),
    [
        (
            problem(400, "price", "wrong_type", "should be of type numeric"),
            PermanentError,
            "missing_not_accepted",
        ),
        (reply(400, {}), LanePausedError, "unknown_refusal"),
        (reply(500), RetryableError, "no_answer"),
        (disconnect, RetryableError, "no_answer"),
        (reply(201, b"<html>"), RetryableError, "no_answer"),
    ],
)
async def test_creation_that_fails_can_be_asked_for_again(
    bench: Bench, action: Action, error: type[RelayError], reason: str
) -> None:
    bench.server.then(action)

    raised = await failure(bench.client.create(PRODUCT, traceparent=TRACE))

    assert type(raised) is error
    assert raised.reason == reason
    await bench.client.create(PRODUCT, traceparent=TRACE)
    assert len(bench.server.paths()) == 2


THEIRS = {
    "external_id": "7",
    "total_price": 1.5,
    "ordered_at": "2026-11-14 18:22:31",
    "loyalty": {"card_code": "21"},
    "products": [{"external_id": "A", "unit_price": 1.5, "quantity": 1}],
}


@pytest.mark.parametrize(
    ("action", "match"),
    [
        (reply(200, THEIRS), OrderMatch.EQUAL),
        (reply(200, THEIRS | {"total_price": 2}), OrderMatch.DIFFERENT),
        (reply(200, THEIRS | {"ordered_at": None}), OrderMatch.CART),
        (reply(200, THEIRS | {"ordered_at": None, "loyalty": None}), OrderMatch.CART_WITHOUT_CARD),
        (problem(404, "ext_id", "wrong_value", "Order not found ..."), OrderMatch.ABSENT),
    ],
)
async def test_order_is_read_back_and_compared(
    bench: Bench, action: Action, match: OrderMatch
) -> None:
    bench.server.then(action)

    assert (await bench.client.compare_order(ORDER, traceparent=TRACE)).match is match
    assert bench.server.paths() == ["GET /data/v2/orders/7"]


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (reply(404, b"<html>"), LanePausedError),
        (reply(200, b"<html>"), RetryableError),
        (reply(200, {"external_id": "8"}), RetryableError),
        (reply(500), RetryableError),
        (reply(429), RetryableError),
    ],
)
async def test_unclear_reply_to_reading_is_no_absence(
    bench: Bench, action: Action, error: type[RelayError]
) -> None:
    bench.server.then(action)

    assert type(await failure(bench.client.compare_order(ORDER, traceparent=TRACE))) is error


async def test_cart_is_completed(bench: Bench) -> None:
    await bench.client.complete_cart(ORDER, traceparent=TRACE)

    (sent,) = [r for r in bench.server.received if r.method == "PATCH"]
    assert sent.path == "/data/v3/orders/7"
    assert orjson.loads(sent.body)["completed"] is True


async def test_cart_that_lacks_a_product(bench: Bench) -> None:
    bench.server.then(
        problem(400, "product_id", "wrong_value", "Product not found for external id JKT-001-M")
    )

    answer = await bench.client.complete_cart(ORDER, traceparent=TRACE)

    assert answer == Missing(PrerequisiteKind.PRODUCT, "JKT-001-M", 400)


@pytest.mark.parametrize(
    ("action", "error", "reason"),
    [
        (
            problem(404, "ext_id", "wrong_value", "Order not found for given identifier."),
            RetryableError,
            "missing",
        ),
        (reply(500), InDoubtError, "server_error"),
        (reply(200, b"<html>"), InDoubtError, "unreadable_reply"),
        (disconnect, InDoubtError, "disconnected"),
    ],
)
async def test_cart_that_was_not_completed(
    bench: Bench, action: Action, error: type[RelayError], reason: str
) -> None:
    bench.server.then(reply(200, {"external_id": "7"}), action)
    await bench.client.complete_cart(ORDER, traceparent=TRACE)

    raised = await failure(bench.client.complete_cart(ORDER, traceparent=TRACE))

    assert type(raised) is error
    assert raised.reason == reason


def credits(*contexts: str, after: str | None = None) -> Action:
    return reply(
        200,
        {
            "paging": {"cursors": {"after": after, "before": None}},
            "elements": [
                {"reason": {"message": context}, "cursor": f"c-{context}"} for context in contexts
            ],
        },
    )


KEY = EffectKey("main:earn:7")


async def test_credits_are_counted_over_all_pages(bench: Bench) -> None:
    bench.server.then(
        credits("main:earn:70", KEY, after="p2"), credits(KEY, "x", after="p3"), credits("y")
    )

    assert await bench.client.count_credits(CREDIT, key=KEY, traceparent=TRACE) == 2
    first, second, third = bench.server.paths()
    assert "after" not in first
    assert "after=p2" in second
    assert "after=p3" in third


async def test_absence_is_never_concluded_from_a_part_of_the_pages(bench: Bench) -> None:
    bench.server.then(credits("x", after="p2"), reply(500))

    raised = await failure(bench.client.count_credits(CREDIT, key=KEY, traceparent=TRACE))
    assert type(raised) is RetryableError

    bench.server.then(credits("x", after="p2"), credits("y", after="p2"))
    raised = await failure(bench.client.count_credits(CREDIT, key=KEY, traceparent=TRACE))
    assert type(raised) is RetryableError


async def test_credits_are_listed_from_a_cursor_on(bench: Bench) -> None:
    bench.server.then(credits("a", "b", after="p2"), credits("c"), credits())

    first = await bench.client.list_credits(after=None)
    second = await bench.client.list_credits(after=first.cursor)
    third = await bench.client.list_credits(after=second.cursor)

    assert [p.contexts for p in (first, second, third)] == [("a", "b"), ("c",), ()]
    assert [p.cursor for p in (first, second, third)] == ["p2", "c-c", "c-c"]
    assert [p.is_last for p in (first, second, third)] == [False, True, True]


async def test_nothing_is_told_of_keys_tokens_and_bodies_in_errors(bench: Bench) -> None:
    """P7."""
    bench.server.then(problem(400, "email", "wrong_value", "a@example.com is strange"))

    text = str(await failure(bench.post()))

    assert text == "unknown_refusal: 400 email/wrong_value"
    assert "key" not in repr(SplioConfig(url="https://api.splio.com", api_key="sesame-key")).split(
        "api_key"
    )
    assert "sesame" not in repr(SplioConfig(url="https://api.splio.com", api_key="sesame"))


@pytest.mark.parametrize(
    "url",
    [
        "http://api.splio.com",
        "ftp://localhost",
        "api.splio.com",
        "https://user:secret@api.splio.com",
        "https://api.splio.com?x=1",
        "http://127.0.0.1.example.com",
        "",
    ],
)
def test_address_must_be_https_beyond_loopback(url: str) -> None:
    with pytest.raises(StartupError):
        SplioConfig(url=url, api_key="key")


@pytest.mark.parametrize(
    "url", ["https://api.splio.com", "http://127.0.0.1:1", "http://localhost/x", "http://[::1]:1"]
)
def test_address_may_be_http_on_loopback(url: str) -> None:
    assert SplioConfig(url=url, api_key="key").url == url


async def test_outage_without_a_token_is_probed_ever_more_rarely(bench: Bench) -> None:
    """Nobody may ask for tokens as fast as the limiter lets them while Splio is away."""
    await bench.open(breaker_failures=2, breaker_first_pause_s=0.05, breaker_longest_pause_s=60.0)
    bench.server.authentications.extend([reply(503)] * 1000)
    for _ in range(2):
        await failure(bench.post())
    assert bench.value("relay_breaker_open") == 1

    for probe in range(1, 4):
        began_s = bench.clock.monotonic_s()
        assert (await failure(bench.post())).reason == "unauthorized"
        assert bench.clock.monotonic_s() - began_s >= 0.05 * 2 ** (probe - 1)

    assert len(bench.server.received) == 5
    bench.server.authentications.clear()
    assert await bench.post() == Accepted(201)
    assert bench.value("relay_breaker_open") == 0


@pytest.mark.parametrize("left", ["9" * 5000, "-1", "1.5", "many"])
async def test_odd_header_of_a_limit_is_passed_over(bench: Bench, left: str) -> None:
    await bench.open(limits={Lane.SALES: 10.0})
    bench.server.then(reply(201, {"external_id": "7"}, {"rateLimit-remaining": left}))

    assert await bench.post() == Accepted(201)
    assert bench.value("relay_splio_rate_remaining", lane="sales") == -1
