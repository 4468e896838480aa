"""The loyalty client over real sockets: what each kind of reply, silence or break leads to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import unquote
from zoneinfo import ZoneInfo

import orjson
import pytest

from consumers.register_member import RegisterMember
from service.domain.effects import (
    EffectKey,
    Kind,
    Lane,
    Outcome,
    PrerequisiteKind,
    RenderedRequest,
)
from service.domain.errors import (
    InDoubtError,
    LanePausedError,
    PermanentError,
    RelayError,
    RetryableError,
)
from service.domain.loyalty import (
    Contact,
    Granted,
    LoyaltyProgram,
    LoyaltySplio,
    Member,
    Registered,
)
from service.domain.planning import ContactKey
from service.domain.ports import Missing, Step
from tests.fakes.splio_server import (
    Action,
    closed_port,
    cut_short,
    disconnect,
    problem,
    reply,
    reset,
)
from tests.integration.splio_bench import TRACE, SplioBench, failure
from tests.unit.builders import make_claim, make_ready

CARD = "2171707962088"
KEY = EffectKey("main:debit:club:C-1:PT100")
DATE, LATER = "2026-11-15 09:12:40", "2026-11-15 09:12:41"
MEMBERSHIP = RenderedRequest(
    path="/loyalty/members", body=b'{"program_id":1,"contact_id":"a@example.com"}'
)
GRANT = RenderedRequest(
    path="/loyalty/v1/rewards/PT100/grant",
    body=orjson.dumps({"card_code": CARD, "quantity": 2, "reason_msg": KEY}),
    idempotency_key="k",
)

BALANCE = {"remaining": {"nq_points": {"next_movement": None, "total": 2500}}}
MEMBER = {
    "id": 9,
    "card_code": CARD,
    "program_joined_at": "2024-02-11 10:00:12",
    "card_expire_at": "9998-12-31 00:00:00",
    "individual": {"id": 2205883, "email": "A@example.com"},
    "program": {"id": 1, "name": "Club"},
}
CONTACT = {
    "id": 2205883,
    "email": "A@example.com",
    "custom_fields": [{"id": 0, "name": "scayle_customer_id", "value": "48213"}],
    "loyalty": [{"card_code": CARD, "id_program": "1"}],
}
PROGRAM = {
    "id": 1,
    "status": "running",
    "automatic_subscription": True,
    "default_points_to_amount_ratio": 1.75,
}
REGISTERED = MEMBER | {"individual": None}
CODES = [{"uuid": "7c2f1c5e", "external_ids": ["1006", "1007"]}]


def attribution(reason: str = KEY, **changes: Any) -> dict[str, Any]:
    return {"card_code": CARD, "earned_date": DATE, "reason_msg": reason} | changes


def entry(reason: str = KEY, **changes: Any) -> dict[str, Any]:
    return {"card_code": CARD, "event_date": DATE, "reason": {"message": reason}} | changes


def listed(*elements: dict[str, Any], after: str | None = None) -> Action:
    return reply(
        200, {"paging": {"cursors": {"after": after, "before": None}}, "elements": elements}
    )


NO_MEMBER = problem(404, "id", "wrong_value", "Membership not found for given identifier.")
NO_CONTACT = problem(404, "id", "wrong_value", "Record not found for id 7.")
NO_PROGRAM = problem(404, "id", "wrong_value", "Program not found for given identifier.")


def flat(key: str, slug: str, description: str, status: int = 400) -> Action:
    return reply(status, {"error_key": key, "error": slug, "error_description": description})


def texts(*errors: str) -> Action:
    return reply(400, {"statusCode": "Bad Request", "message": "no", "errors": errors})


class Bench(SplioBench):
    """Asks and writes as the checkout does, a permit each."""

    @property
    def loyalty(self) -> LoyaltySplio:
        return self.client.loyalty

    def in_s(self, seconds: float = 5.0) -> float:
        return self.clock.monotonic_s() + seconds

    async def with_permit(self, call: Callable[..., Awaitable[Any]], *what: Any) -> Any:
        permit = await self.loyalty.checkout_permit()
        return await call(*what, permit=permit, deadline_s=self.in_s(), traceparent=TRACE)

    async def balance(self) -> int | None:
        points: int | None = await self.with_permit(self.loyalty.read_balance, CARD)
        return points

    async def member(self) -> Member | None:
        member: Member | None = await self.with_permit(self.loyalty.read_member, CARD)
        return member

    async def contact(
        self, key: str = "a@example.com", *, is_internal: bool = False, time_s: float = 5.0
    ) -> Contact | None:
        return await self.loyalty.read_contact(
            key, is_internal=is_internal, deadline_s=self.in_s(time_s), traceparent=TRACE
        )

    async def program(self) -> LoyaltyProgram | None:
        program: LoyaltyProgram | None = await self.with_permit(self.loyalty.read_program, "1")
        return program

    async def debits(self) -> list[str]:
        return list(await self.with_permit(self.loyalty.shown_debits, CARD))

    async def register(self) -> Registered | Missing:
        answer: Registered | Missing = await self.with_permit(
            self.loyalty.create_member, MEMBERSHIP
        )
        return answer

    async def grant(self) -> Granted:
        granted: Granted = await self.with_permit(self.loyalty.grant, GRANT)
        return granted

    async def count(self) -> int:
        return await self.loyalty.count_grants(GRANT, key=KEY, traceparent=TRACE)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Bench.begin() as bench:
        yield bench


async def test_everything_is_asked_over_one_exchange(bench: Bench) -> None:
    """One token, one limiter, one breaker for both clients."""
    bench.server.then(reply(200, BALANCE), reply(202), reply(200, CONTACT))

    assert await bench.balance() == 2500
    permit = await bench.client.permit(Lane.OTHER)
    credit = RenderedRequest(path=f"/loyalty/v1/members/{CARD}/credit", body=b"{}")
    await bench.client.credit(credit, permit=permit, deadline_s=bench.in_s(), traceparent="")
    await bench.contact()

    assert bench.server.tokens == 1
    asked = [r for r in bench.server.received if r.path != "/authenticate"]
    assert len({r.headers["Authorization"] for r in asked}) == 1
    assert asked[0].headers["traceparent"] == TRACE
    assert [r.method for r in asked] == ["GET", "POST", "GET"]


async def test_registration_with_the_probe_of_an_open_breaker_ends_the_outage(
    bench: Bench,
) -> None:
    """It needs a permit of another lane, and nobody gets one before the probe was answered."""
    client = await bench.open(breaker_failures=1, breaker_first_pause_s=0.05)
    bench.server.then(reply(503), reply(200, PROGRAM), reply(200, CONTACT))
    await failure(bench.balance())
    assert bench.value("relay_breaker_open") == 1

    member = replace(make_ready(kind=Kind.MEMBER), request=MEMBERSHIP)
    handler = RegisterMember(client, bench.loyalty, bench.clock)
    permit = await bench.loyalty.checkout_permit()
    ended = await handler.attempt(make_claim(member), permit=permit, deadline_s=bench.in_s())

    assert ended.settlement.outcome is Outcome.DUPLICATE
    assert bench.value("relay_breaker_open") == 0


async def test_card_is_asked_for_its_balance_and_its_member(bench: Bench) -> None:
    await bench.open(timezone=ZoneInfo("Europe/Paris"))
    bench.server.then(reply(200, BALANCE), reply(200, MEMBER))

    assert await bench.balance() == 2500
    member = await bench.member()

    assert member is not None
    assert (member.card, member.program, member.contact_id) == (CARD, "1", "2205883")
    assert member.joined_at is not None
    assert member.joined_at.isoformat() == "2024-02-11T09:00:12+00:00"
    assert bench.server.paths() == [
        f"GET /loyalty/members/{CARD}/balance",
        f"GET /loyalty/members/{CARD}",
    ]


async def test_contact_is_asked_for_by_unique_key_or_internal_id(bench: Bench) -> None:
    await bench.open(contact_key=ContactKey.CUSTOMER_ID)
    bench.server.then(reply(200, CONTACT), reply(200, CONTACT))
    expected = Contact("48213", "a@example.com", ((CARD, "1"),))

    assert await bench.contact("48213") == expected
    assert await bench.contact("2205883", is_internal=True) == expected

    assert bench.server.paths() == [
        "GET /data/contacts/48213",
        "GET /data/contacts/2205883?key=internal_id",
    ]


async def test_key_of_a_contact_is_encoded(bench: Bench) -> None:
    bench.server.then(NO_CONTACT)

    assert await bench.contact("a+b/c@example.com") is None
    assert bench.server.paths() == ["GET /data/contacts/a%2Bb%2Fc%40example.com"]


async def test_program_is_asked_for(bench: Bench) -> None:
    bench.server.then(reply(200, PROGRAM))

    assert await bench.program() == LoyaltyProgram(
        is_running=True, subscribes_automatically=True, points_to_amount="1.75"
    )
    assert bench.server.paths() == ["GET /loyalty/programs/1"]


async def test_debits_of_a_card_are_its_reasons_newest_first(bench: Bench) -> None:
    bench.server.then(listed(entry("b"), entry(""), {}, entry("a"), after="more"))

    assert await bench.debits() == ["b", "a"]
    (asked,) = bench.server.paths()
    path = unquote(asked)
    assert path.startswith("GET /loyalty/points?limit=500&sort=ID&order=desc&")
    assert f'card_code={{"operator":"equals","value":"{CARD}"}}' in path
    assert 'event_type={"operator":"equals","value":"reward_attribution"}' in path
    assert 'points_type={"operator":"equals","value":"nq"}' in path


READS: dict[str, tuple[Callable[[Bench], Awaitable[object]], Action, Any]] = {
    "balance": (Bench.balance, NO_MEMBER, BALANCE),
    "member": (Bench.member, NO_MEMBER, MEMBER),
    "contact": (Bench.contact, NO_CONTACT, CONTACT),
    "program": (Bench.program, NO_PROGRAM, PROGRAM),
}


@pytest.mark.parametrize("read", READS)
async def test_what_splio_does_not_know_is_none(bench: Bench, read: str) -> None:
    ask, absent, _ = READS[read]
    bench.server.then(absent)

    assert await ask(bench) is None


@pytest.mark.parametrize(
    ("action", "error", "reason"),
    [
        (reply(404), LanePausedError, "unknown_refusal"),
        (reply(404, b"<html>Not Found</html>"), LanePausedError, "unknown_refusal"),
        (reply(404, {"message": "Not Found"}), LanePausedError, "unknown_refusal"),
        (
            problem(404, "path", "not_found", "Nothing answers: not found."),
            LanePausedError,
            "unknown_refusal",
        ),
        (problem(400, "id", "wrong_value", "not found"), LanePausedError, "unknown_refusal"),
        (reply(403, b"Forbidden"), LanePausedError, "unknown_refusal"),
        (reply(302, headers={"Location": "/elsewhere"}), LanePausedError, "unknown_refusal"),
        (reply(429, {"message": "API rate limit exceeded"}), RetryableError, "rate_limited"),
        (reply(500), RetryableError, "no_answer"),
        (reply(503, b"<html>down</html>"), RetryableError, "no_answer"),
        (reply(200, b"<html>portal</html>"), RetryableError, "no_answer"),
        (reply(200, []), RetryableError, "no_answer"),
        (reply(200, {}), RetryableError, "no_answer"),
        (reply(200, b"null"), RetryableError, "no_answer"),
        (reply(200, {"error_key": "id", "error": "x"}), RetryableError, "no_answer"),
        (reply(200, b'{"id":' + b"1" * 5000 + b"}"), RetryableError, "no_answer"),
        (reply(200, b"[" * 100_000), RetryableError, "no_answer"),
        (reply(200, b'"' + b"x" * (1 << 20) + b'"'), RetryableError, "no_answer"),
        (reset, RetryableError, "no_answer"),
        (cut_short(b"{}"), RetryableError, "no_answer"),
    ],
)
@pytest.mark.parametrize("read", [*READS, "debits"])
async def test_unclear_reply_to_reading_is_no_absence(
    bench: Bench, read: str, action: Action, error: type[RelayError], reason: str
) -> None:
    ask = READS[read][0] if read in READS else Bench.debits
    bench.server.then(action)
    if action is reset:
        bench.server.then(reset)  # aiohttp repeats a GET of its own accord

    raised = await failure(ask(bench))

    assert (type(raised), raised.reason) == (error, reason)


@pytest.mark.parametrize(
    ("read", "changes"),
    [
        ("balance", {"remaining": {"nq_points": {"total": 2500.5}}}),
        ("balance", {"remaining": {"nq_points": {"total": None}}}),
        ("member", {"card_code": "0000000000000"}),
        ("member", {"card_expire_at": "soon"}),
        ("member", {"program": None}),
        ("contact", {"email": "b@example.com"}),
        ("contact", {"loyalty": [{"card_code": None}]}),
        ("program", {"id": 2}),
        *((read, {"errors": []}) for read in READS),
    ],
)
async def test_answer_about_something_else_is_not_believed(
    bench: Bench, read: str, changes: dict[str, Any]
) -> None:
    ask, _, document = READS[read]
    bench.server.then(reply(200, document | changes))

    raised = await failure(ask(bench))

    assert (type(raised), raised.reason) == (RetryableError, "no_answer")
    assert "unreadable_reply" in raised.detail


async def test_absent_card_of_the_points_ledger_is_nothing_splio_documents(bench: Bench) -> None:
    bench.server.then(NO_MEMBER)

    assert type(await failure(bench.debits())) is LanePausedError


async def test_what_cannot_be_asked_for_is_not_asked(bench: Bench) -> None:
    """Its permit is handed back, or the second one would come ten seconds later."""
    client = await bench.open(limits={Lane.OTHER: 0.1})
    async with asyncio.timeout(5):
        for card in ("", "..", "\ud800"):
            permit = await client.loyalty.checkout_permit()
            points = await client.loyalty.read_balance(
                card, permit=permit, deadline_s=bench.in_s(), traceparent=""
            )
            assert points is None

    assert bench.server.received == []


async def test_contact_is_not_waited_for_beyond_the_deadline(bench: Bench) -> None:
    await bench.open(limits={Lane.CONTACTS: 0.1})
    bench.server.then(reply(200, CONTACT))
    await bench.contact()

    async with asyncio.timeout(2):
        raised = await failure(bench.contact(time_s=0.1))

    assert (type(raised), raised.reason) == (RetryableError, "deadline_passed")
    assert len(bench.server.paths()) == 1


async def test_reading_that_is_too_late_is_not_begun(bench: Bench) -> None:
    bench.server.then(reply(200, CONTACT))
    await bench.contact()

    permit = await bench.loyalty.checkout_permit()
    raised = await failure(
        bench.loyalty.read_balance(CARD, permit=permit, deadline_s=bench.in_s(-1), traceparent="")
    )

    assert (type(raised), raised.reason) == (RetryableError, "deadline_passed")
    assert len(bench.server.paths()) == 1


async def test_member_is_made_and_its_card_believed(bench: Bench) -> None:
    bench.server.then(reply(201, REGISTERED))

    assert await bench.register() == Registered(CARD, 201)

    sent = bench.server.received[-1]
    assert (sent.method, sent.path, sent.body) == ("POST", MEMBERSHIP.path, MEMBERSHIP.body)
    assert bench.steps == [Step.REQUEST_STARTED, Step.REQUEST_SENT, Step.REPLY_RECEIVED]


async def test_contact_that_a_member_lacks_is_named_as_in_the_request(bench: Bench) -> None:
    """Splio's sentence has a full stop behind the name."""
    bench.server.then(
        problem(
            400,
            "individual_id",
            "wrong_value",
            "Individual not found for unique key a@example.com.",
        )
    )

    answer = await bench.register()

    assert answer == Missing(PrerequisiteKind.CONTACT, "a@example.com", 400)


async def test_reward_is_granted_with_its_codes(bench: Bench) -> None:
    bench.server.then(reply(200, CODES), reply(200, []))

    assert await bench.grant() == Granted(200, ("1006", "1007"))
    assert await bench.grant() == Granted(200, ())

    sent = bench.server.received[-1]
    assert (sent.method, sent.path, sent.body) == ("POST", GRANT.path, GRANT.body)
    assert bench.steps[:3] == [Step.REQUEST_STARTED, Step.REQUEST_SENT, Step.REPLY_RECEIVED]


UNCLEAR: list[tuple[Action, type[RelayError], str]] = [
    (reply(400, {}), LanePausedError, "unknown_refusal"),
    (problem(400, "x", "odd", "new"), LanePausedError, "unknown_refusal"),
    (reply(404), LanePausedError, "unknown_refusal"),
    (reply(404, b"<html>"), LanePausedError, "unknown_refusal"),
    (reply(404, b"404 page not found"), LanePausedError, "unknown_refusal"),
    (reply(429, {"message": "API rate limit exceeded"}), RetryableError, "rate_limited"),
    (reply(302, headers={"Location": "/elsewhere"}), LanePausedError, "unknown_refusal"),
    (reply(408), InDoubtError, "server_error"),
    (reply(500), InDoubtError, "server_error"),
    (reply(502, b"<html>down</html>"), InDoubtError, "server_error"),
    (reply(200, b"<html>portal</html>"), InDoubtError, "unreadable_reply"),
    (reply(201, b"\x00\xff"), InDoubtError, "unreadable_reply"),
    (reply(204), InDoubtError, "unreadable_reply"),
    (reply(201, b'"' + b"x" * (1 << 20) + b'"'), InDoubtError, "unreadable_reply"),
    (disconnect, InDoubtError, "disconnected"),
    (reset, InDoubtError, "disconnected"),
    (cut_short(b"[]"), InDoubtError, "disconnected"),
]


@pytest.mark.parametrize(
    ("act", "action", "error", "reason"),
    [
        *((act, *row) for act in ("register", "grant") for row in UNCLEAR),
        (
            "register",
            problem(400, "program_id", "wrong_status", "Program must be in running state."),
            PermanentError,
            "refused",
        ),
        (
            "register",
            texts("status must have a card code if the program doesn't have the option"),
            PermanentError,
            "refused",
        ),
        (
            "register",
            texts("loyalty program could not be found at the given date"),
            PermanentError,
            "refused",
        ),
        ("register", reply(409, b"Failed to generate a card code."), PermanentError, "refused"),
        ("register", reply(409), LanePausedError, "unknown_refusal"),
        ("register", reply(201, REGISTERED | {"card_code": ""}), InDoubtError, "unreadable_reply"),
        (
            "register",
            reply(201, REGISTERED | {"program": {"id": 2}}),
            InDoubtError,
            "unreadable_reply",
        ),
        (
            "grant",
            flat("card_code", "not_found", "card_code 2 not found"),
            PermanentError,
            "unknown_card",
        ),
        (
            "grant",
            flat("reward_stock", "not enough stock", "there's not enough stock"),
            PermanentError,
            "refused",
        ),
        ("grant", flat("", "wrong_field_type", "something went wrong"), PermanentError, "refused"),
        (
            "grant",
            flat("burned_date", "inconsistent_dates", "burn date should be after"),
            PermanentError,
            "refused",
        ),
        ("grant", flat("", "", "PT100 not found", 404), PermanentError, "refused"),
        ("grant", flat("", "", "PT10 not found", 404), LanePausedError, "unknown_refusal"),
        (
            "grant",
            flat("nq_points", "not enough points", "not enough NQ points"),
            LanePausedError,
            "unknown_refusal",
        ),
        ("grant", reply(201, CODES), InDoubtError, "unreadable_reply"),
        ("grant", reply(200, [{"uuid": "u"}]), InDoubtError, "unreadable_reply"),
    ],
)
async def test_every_other_reply_raises_what_comes_next_and_is_not_repeated(
    bench: Bench, act: str, action: Action, error: type[RelayError], reason: str
) -> None:
    """P4: whatever comes back, one POST leaves."""
    bench.server.then(action)

    raised = await failure(getattr(bench, act)())

    assert (type(raised), raised.reason) == (error, reason)
    assert len(bench.server.paths()) == 1
    assert bench.steps[:2] == [Step.REQUEST_STARTED, Step.REQUEST_SENT]


@pytest.mark.parametrize("act", ["register", "grant"])
async def test_nobody_listening_is_a_retry(bench: Bench, act: str) -> None:
    await bench.open(url=f"http://127.0.0.1:{closed_port()}")

    raised = await failure(getattr(bench, act)())

    assert (type(raised), raised.reason) == (RetryableError, "not_connected")
    assert bench.steps == []


async def test_grants_are_counted_over_all_pages_of_the_contact(bench: Bench) -> None:
    """Two codes of one grant on two pages are one; what another card or key has is none."""
    bench.server.then(
        reply(200, MEMBER),
        reply(200, CONTACT),
        listed(attribution(external_id="1"), attribution(f"{KEY}0"), after="p2"),
        listed(attribution(external_id="2"), attribution(card_code="1", earned_date=LATER)),
    )

    assert await bench.count() == 1

    member, contact, first, second = bench.server.paths()
    assert member == f"GET /loyalty/members/{CARD}"
    assert contact == "GET /data/contacts/2205883?key=internal_id"
    assert first == "GET /loyalty/v2/contacts/A%40example.com/rewards?limit=200"
    assert second == f"{first.removesuffix('200')}200&after=p2"


async def test_grants_of_two_dates_are_two(bench: Bench) -> None:
    bench.server.then(
        reply(200, MEMBER),
        reply(200, CONTACT),
        listed(attribution(), attribution(earned_date=LATER)),
    )

    assert await bench.count() == 2


@pytest.mark.parametrize(
    ("before", "reads"),
    [
        ([NO_MEMBER], 1),
        ([reply(200, MEMBER | {"individual": None})], 1),
        ([reply(200, MEMBER), NO_CONTACT], 2),
        ([reply(200, MEMBER), reply(200, CONTACT | {"email": None})], 2),
        ([reply(200, MEMBER), reply(200, CONTACT | {"email": ".."})], 2),
        ([reply(200, MEMBER), reply(200, CONTACT), NO_CONTACT], 3),
        ([reply(200, MEMBER), reply(200, CONTACT), listed(attribution("other"))], 3),
    ],
)
async def test_points_ledger_is_the_second_witness(
    bench: Bench, before: list[Action], reads: int
) -> None:
    bench.server.then(*before, listed(entry("x"), after="p2"), listed(entry()))

    assert await bench.count() == 1
    ledger = bench.server.paths()[reads:]
    assert [path.split("?")[0] for path in ledger] == ["GET /loyalty/points"] * 2
    assert ["after=p2" in path for path in ledger] == [False, True]


async def test_grant_that_neither_witness_shows_is_absent(bench: Bench) -> None:
    bench.server.then(reply(200, MEMBER), reply(200, CONTACT), listed(), listed(entry("other")))

    assert await bench.count() == 0


@pytest.mark.parametrize("trouble", [reply(500), reply(200, b"<html>"), reply(200, {})])
@pytest.mark.parametrize("after", range(5))
async def test_absence_is_never_concluded_from_a_part_of_the_pages(
    bench: Bench, after: int, trouble: Action
) -> None:
    well = [
        reply(200, MEMBER),
        reply(200, CONTACT),
        listed(after="p2"),
        listed(),
        listed(after="p2"),
    ]
    bench.server.then(*well[:after], trouble)

    raised = await failure(bench.count())

    assert (type(raised), raised.reason) == (RetryableError, "no_answer")


async def test_pages_without_an_end_are_no_absence(bench: Bench) -> None:
    bench.server.then(NO_MEMBER, listed(after="p2"), listed(after="p2"))

    assert (await failure(bench.count())).reason == "no_answer"
    assert len(bench.server.paths()) == 3

    bench.server.then(NO_MEMBER, *(listed(after=f"p{number}") for number in range(101)))
    assert (await failure(bench.count())).reason == "no_answer"
    assert len(bench.server.script) == 1


async def test_wrong_address_of_the_attributions_is_no_absence(bench: Bench) -> None:
    bench.server.then(reply(200, MEMBER), reply(200, CONTACT), reply(404, b"<html>"))

    assert type(await failure(bench.count())) is LanePausedError


@pytest.mark.parametrize(
    ("ask", "operation"),
    [
        (Bench.balance, "read_balance"),
        (Bench.member, "read_member"),
        (Bench.contact, "read_contact"),
        (Bench.program, "read_program"),
        (Bench.debits, "list_points"),
        (Bench.register, "create_member"),
        (Bench.grant, "grant"),
    ],
)
async def test_requests_are_counted_by_operation(
    bench: Bench, ask: Callable[[Bench], Awaitable[object]], operation: str
) -> None:
    bench.server.then(reply(500))
    await failure(ask(bench))

    counted = partial(bench.value, "relay_splio_requests_total", operation=operation)
    assert (counted(answer="5xx"), counted(answer="2xx")) == (1, 0)


async def test_attributions_are_counted_as_their_own_operation(bench: Bench) -> None:
    bench.server.then(reply(200, MEMBER), reply(200, CONTACT), listed(attribution()))
    await bench.count()

    assert bench.value("relay_splio_requests_total", operation="list_grants", answer="2xx") == 1


async def test_nothing_is_told_of_the_customer_in_errors(bench: Bench) -> None:
    """P7."""
    bench.server.then(
        flat("card_code", "not_found", f"card_code {CARD} not found"),
        reply(200, CONTACT | {"email": "b@example.com"}),
        reply(200, MEMBER | {"card_code": "4006381333931"}),
    )

    told = [str(await failure(ask(bench))) for ask in (Bench.grant, Bench.contact, Bench.member)]

    assert told == [
        "unknown_card: 400 card_code/not_found not found",
        "no_answer: unreadable_reply another contact",
        "no_answer: unreadable_reply another card",
    ]
