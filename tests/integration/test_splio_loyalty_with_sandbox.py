"""The loyalty client against the sandbox: what it concludes is what stands in the books."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.domain.clock import SteadyClock
from service.domain.effects import EffectKey, Kind, Lane, RenderedRequest, effect_key
from service.domain.errors import InDoubtError, LanePausedError, PermanentError, RelayError
from service.domain.events import Customer
from service.domain.loyalty import (
    Contact,
    Granted,
    LoyaltyProgram,
    LoyaltySplio,
    Member,
    Registered,
)
from service.domain.planning import ContactKey
from service.domain.ports import Accepted, Missing, Permit
from service.sandbox.faults import FaultRule
from service.sandbox.splio import SplioSandbox, SplioSandboxSettings, open_splio_sandbox
from service.splio.client import SplioClient, open_splio_client
from service.splio.config import SplioConfig
from service.splio.requests import SplioRenderer
from service.telemetry.metrics import Metrics
from tests.integration.sandbox_client import FAULTS

CARD = "2171707962088"
UNKNOWN_CARD = "2171707962089"  # its check digit is wrong
EMAIL = "camille@example.com"
CAMILLE = Customer("48213", None, "Camille@example.com", None, "Camille", "Roux", False, False)
# After the joining of cards that are made meanwhile.
AT = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
ZONE = "UTC"


def debit_key(capture: str) -> EffectKey:
    return effect_key("main", Kind.DEBIT, "club", capture)


class Bench:
    """A client and the sandbox that it talks to."""

    def __init__(self, client: SplioClient, sandbox: SplioSandbox, key: ContactKey) -> None:
        self.client = client
        self.sandbox = sandbox
        self.clock = SteadyClock()
        self.renderer = SplioRenderer(contact_key=key)
        self.key = key

    @property
    def loyalty(self) -> LoyaltySplio:
        return self.client.loyalty

    async def given(self, time_s: float = 5.0) -> dict[str, Any]:
        """What every request of the checkout comes with."""
        permit: Permit = await self.loyalty.checkout_permit()
        return {
            "permit": permit,
            "deadline_s": self.clock.monotonic_s() + time_s,
            "traceparent": "",
        }

    async def credit(self, points: int, *, card: str = CARD, refund: str = "R") -> None:
        request = self.renderer.credit(
            key=effect_key("main", Kind.REFUND, "club", refund),
            card=card,
            points=points,
            at=AT,
            timezone=ZONE,
        )
        assert await self.client.credit(request, **await self.given()) == Accepted(202)

    def debit(
        self,
        capture: str,
        *,
        card: str = CARD,
        reward: str = "PT10",
        quantity: int = 3,
        at: datetime = AT,
    ) -> RenderedRequest:
        return self.renderer.grant(
            key=debit_key(capture),
            card=card,
            reward=reward,
            quantity=quantity,
            at=at,
            timezone=ZONE,
        )

    async def grant(self, request: RenderedRequest, *, time_s: float = 5.0) -> Granted:
        return await self.loyalty.grant(request, **await self.given(time_s))

    async def count(self, capture: str, *, card: str = CARD) -> int:
        return await self.loyalty.count_grants(
            self.debit(capture, card=card), key=debit_key(capture), traceparent=""
        )

    async def balance(self, card: str = CARD) -> int | None:
        return await self.loyalty.read_balance(card, **await self.given())

    async def member(self, card: str = CARD) -> Member | None:
        return await self.loyalty.read_member(card, **await self.given())

    async def contact(self, key: str, *, is_internal: bool = False) -> Contact | None:
        return await self.loyalty.read_contact(
            key,
            is_internal=is_internal,
            deadline_s=self.clock.monotonic_s() + 5,
            traceparent="",
        )

    def membership(self, program: str = "1") -> RenderedRequest:
        contact_id = EMAIL if self.key is ContactKey.EMAIL else "48213"
        return self.renderer.membership(
            program=program, contact_id=contact_id, customer=CAMILLE, language="fr"
        )

    async def register(
        self, request: RenderedRequest, *, time_s: float = 5.0
    ) -> Registered | Missing:
        return await self.loyalty.create_member(request, **await self.given(time_s))

    async def registered(self) -> str:
        """A card, with a contact that is made first."""
        request = self.membership()
        answer = await self.register(request)
        assert isinstance(answer, Missing)
        (needed,) = request.prerequisites
        assert (answer.kind, answer.name) == (needed.kind, needed.name)
        await self.client.create(needed, traceparent="")
        answer = await self.register(request)
        assert isinstance(answer, Registered)
        return answer.card


@asynccontextmanager
async def open_bench(
    path: Path, contact_key: ContactKey = ContactKey.EMAIL, **settings: Any
) -> AsyncIterator[Bench]:
    given: dict[str, Any] = {
        "limits": None,
        "points_visible_after_s": 0.0,
        "grants_visible_after_s": 0.0,
        "unique_key": "email" if contact_key is ContactKey.EMAIL else "c0",
    }
    given |= settings
    async with open_splio_sandbox(
        SplioSandboxSettings(path=str(path / "splio.db"), **given)
    ) as sandbox:
        config = SplioConfig(
            url=sandbox.url,
            api_key="sandbox-api-key",
            limits={Lane(lane): limit for lane, limit in (given["limits"] or {}).items()},
            breaker_failures=1000,
            contact_key=contact_key,
        )
        async with open_splio_client(
            config, clock=SteadyClock(), metrics=Metrics(CollectorRegistry())
        ) as client:
            yield Bench(client, sandbox, contact_key)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(tmp_path) as bench:
        yield bench


async def test_balance_follows_credits_and_grants(bench: Bench) -> None:
    assert await bench.balance() == 0
    await bench.credit(100)
    assert await bench.balance() == 100

    granted = await bench.grant(bench.debit("C-1"))

    assert len(set(granted.codes)) == 3
    assert await bench.balance() == 70
    codes = await bench.sandbox.attributions()
    assert {code["external_id"] for code in codes} == set(granted.codes)
    assert {code["burned_date"] for code in codes} == {AT.isoformat(" ")[:19]}
    assert {code["earned_date"] for code in codes} == {AT.isoformat(" ")[:19]}


async def test_points_in_their_holding_period_are_not_told(tmp_path: Path) -> None:
    async with open_bench(tmp_path, holding_days=3650) as bench:
        await bench.credit(100)

        assert await bench.balance() == 0


async def test_unknown_card_program_and_contact_are_none(bench: Bench) -> None:
    assert await bench.balance(UNKNOWN_CARD) is None
    assert await bench.member(UNKNOWN_CARD) is None
    assert await bench.contact(EMAIL) is None
    assert await bench.contact("1", is_internal=True) is None
    assert await bench.loyalty.read_program("9", **await bench.given()) is None


async def test_program_tells_how_contacts_become_members(tmp_path: Path) -> None:
    async with open_bench(tmp_path, automatic_subscription=True) as bench:
        club, draft = [
            await bench.loyalty.read_program(program, **await bench.given())
            for program in ("1", "3")
        ]

    assert club == LoyaltyProgram(True, True, "10")
    assert draft == LoyaltyProgram(False, False, "10")


async def test_card_without_a_contact_has_none(bench: Bench) -> None:
    member = await bench.member()

    assert member is not None
    assert (member.card, member.program) == (CARD, "1")
    assert (member.contact_id, member.email, member.expires_at) == (None, None, None)


@pytest.mark.parametrize(
    ("contact_key", "unique_key"), [(ContactKey.EMAIL, EMAIL), (ContactKey.CUSTOMER_ID, "48213")]
)
async def test_registered_member_is_found_by_card_and_by_contact(
    tmp_path: Path, contact_key: ContactKey, unique_key: str
) -> None:
    async with open_bench(tmp_path, contact_key, members="registered") as bench:
        card = await bench.registered()

        member = await bench.member(card)

        assert member is not None
        assert (member.email, member.program) == (EMAIL, "1")
        assert member.joined_at is not None
        assert abs((datetime.now(UTC) - member.joined_at).total_seconds()) < 60
        assert member.contact_id is not None
        contact = await bench.contact(unique_key)
        assert contact == Contact(unique_key, EMAIL, ((card, "1"),))
        assert contact == await bench.contact(member.contact_id, is_internal=True)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("3", id="draft"),
        pytest.param("9", id="unknown"),
        pytest.param("2", id="without generated codes"),
    ],
)
async def test_membership_that_the_program_does_not_allow_is_refused(
    bench: Bench, program: str
) -> None:
    await bench.registered()

    with pytest.raises(PermanentError) as raised:
        await bench.register(bench.membership(program))

    assert raised.value.reason == "refused"


async def test_refused_grants_take_nothing(bench: Bench) -> None:
    await bench.credit(20)
    refusals = [
        (bench.debit("C-1", reward="PT7"), PermanentError, "refused"),
        (bench.debit("C-2", card=UNKNOWN_CARD), PermanentError, "unknown_card"),
        (bench.debit("C-3", quantity=3), LanePausedError, "unknown_refusal"),
    ]
    for request, error, reason in refusals:
        with pytest.raises(RelayError) as raised:
            await bench.grant(request)
        assert (type(raised.value), raised.value.reason) == (error, reason)

    bench.sandbox.change_settings(too_few_points="stock")
    with pytest.raises(PermanentError):
        await bench.grant(bench.debit("C-3"))

    assert await bench.sandbox.attributions() == []
    assert await bench.balance() == 20


async def test_repeated_key_grants_nothing_more(bench: Bench) -> None:
    await bench.credit(100)
    request = bench.debit("C-1")

    first, second = await bench.grant(request), await bench.grant(request)

    assert len(first.codes) == 3
    assert second == Granted(200, ())
    assert await bench.balance() == 70
    bench.sandbox.change_settings(repeated_grant_key="refuse")
    with pytest.raises(LanePausedError):
        await bench.grant(request)


async def test_debits_that_a_balance_shows_are_told_by_their_keys(bench: Bench) -> None:
    await bench.credit(100)
    assert await bench.loyalty.shown_debits(CARD, **await bench.given()) == []
    for capture in ("C-1", "C-2"):
        await bench.grant(bench.debit(capture))

    shown = await bench.loyalty.shown_debits(CARD, **await bench.given())

    assert list(shown) == [debit_key("C-2"), debit_key("C-1")]
    assert await bench.loyalty.shown_debits("4006381333931", **await bench.given()) == []


@pytest.mark.parametrize("contact_key", [ContactKey.EMAIL, ContactKey.CUSTOMER_ID])
async def test_grants_are_counted_in_the_attributions(
    tmp_path: Path, contact_key: ContactKey
) -> None:
    async with open_bench(tmp_path, contact_key) as bench:
        card = await bench.registered()
        await bench.credit(2_000, card=card)
        # More codes than a page holds.
        await bench.grant(bench.debit("C-1", card=card, reward="PT1", quantity=450))
        await bench.grant(bench.debit("C-10", card=card))

        assert [await bench.count(c, card=card) for c in ("C-1", "C-10", "C-2")] == [1, 1, 0]
        bench.sandbox.change_settings(repeated_grant_key="book")
        await bench.grant(bench.debit("C-1", card=card, at=AT + timedelta(seconds=1)))
        assert await bench.count("C-1", card=card) == 2
        requests = (await bench.sandbox.statement())["requests"]
        assert sum(requests["attribution.list"].values()) == 4 * 3


async def test_grants_of_a_card_without_a_contact_are_counted_in_the_ledger(bench: Bench) -> None:
    await bench.credit(100)
    await bench.grant(bench.debit("C-1"))

    assert [await bench.count(capture) for capture in ("C-1", "C-2")] == [1, 0]
    assert "attribution.list" not in (await bench.sandbox.statement())["requests"]


ACTS = ("lost_reply", "status_after", "garbage", "slow_drip")
"""The faults whose request takes effect and whose answer does not say so."""


def time_s(fault: str) -> float:
    """For the answer: little where it would drip for longer than anybody waits."""
    return 0.3 if fault == "slow_drip" else 1.0


def concluded(fault: str, applied: bool | None) -> None:
    """Doubt is there to be looked up, and where it took effect there is no other word for it."""
    if fault in ACTS:
        assert applied is None


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("has_contact", [True, False])
async def test_conclusion_on_a_grant_agrees_with_the_books(
    bench: Bench, fault: str, has_contact: bool
) -> None:
    """P2, P4: "granted" is in the books, "nothing took effect" is not, doubt may be either."""
    card = await bench.registered() if has_contact else CARD
    await bench.credit(100, card=card)
    bench.sandbox.add_fault(FaultRule("reward.grant", fault, count=1, **FAULTS[fault]))
    applied: bool | None
    try:
        granted = await bench.grant(bench.debit("C-1", card=card), time_s=time_s(fault))
        assert len(granted.codes) == 3
        applied = True
    except InDoubtError:
        applied = None
    except RelayError:
        applied = False
    bench.sandbox.clear_faults()

    held = len(await bench.sandbox.attributions()) // 3

    assert held <= 1
    assert applied in (None, bool(held))
    assert await bench.count("C-1", card=card) == held
    assert await bench.balance(card) == 100 - 30 * held
    concluded(fault, applied)


@pytest.mark.parametrize("fault", FAULTS)
async def test_conclusion_on_a_membership_agrees_with_the_books(tmp_path: Path, fault: str) -> None:
    """P2, P4; a membership is looked up among the cards of its contact."""
    async with open_bench(tmp_path, members="registered") as bench:
        request = bench.membership()
        (contact,) = request.prerequisites
        await bench.client.create(contact, traceparent="")
        bench.sandbox.add_fault(FaultRule("member.create", fault, count=1, **FAULTS[fault]))
        card: str | None = None
        applied: bool | None
        try:
            answer = await bench.register(request, time_s=time_s(fault))
            assert isinstance(answer, Registered)
            applied, card = True, answer.card
        except InDoubtError:
            applied = None
        except RelayError:
            applied = False
        bench.sandbox.clear_faults()

        found = await bench.contact(EMAIL)

        assert found is not None
        held = (await bench.sandbox.statement())["members"]
        assert held <= 1
        assert applied in (None, bool(held))
        assert len(found.cards) == held
        if card is not None:
            assert found.cards == ((card, "1"),)
        concluded(fault, applied)


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        ("member.read", "status"),
        ("contact.read", "lost_request"),
        ("attribution.list", "garbage"),
        ("points.list", "status"),
    ],
)
async def test_trouble_in_a_look_up_is_no_absence(bench: Bench, operation: str, fault: str) -> None:
    card = await bench.registered()
    bench.sandbox.add_fault(FaultRule(operation, fault))

    with pytest.raises(RelayError):
        await bench.count("C-1", card=card)

    bench.sandbox.clear_faults()
    assert await bench.count("C-1", card=card) == 0


async def test_requests_keep_to_the_lanes_that_splio_counts_them_in(tmp_path: Path) -> None:
    """P6."""
    limits = {"contacts": 20.0, "sales": 20.0, "other": 10.0}
    async with open_bench(tmp_path, limits=limits) as bench:
        card = await bench.registered()
        await bench.credit(100, card=card)
        for number in range(3):
            await bench.grant(bench.debit(f"C-{number}", card=card, quantity=1))
            assert await bench.count(f"C-{number}", card=card) == 1

        assert (await bench.sandbox.statement())["rate_limited"] == 0
