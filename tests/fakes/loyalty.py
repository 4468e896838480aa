"""A Splio behind its loyalty port that answers as told and keeps account of its permits."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from service.domain.clock import time_limit
from service.domain.effects import EffectKey, Lane, RenderedRequest
from service.domain.errors import RelayError, RetryableError
from service.domain.loyalty import Contact, Granted, LoyaltyProgram, Member, Registered
from service.domain.ports import Missing, Operation, Permit
from tests.fakes.clock import FakeClock


class FakePlace:
    """A permit that is used once or handed back; handing it back again changes nothing."""

    lane = Lane.OTHER

    def __init__(self, splio: "FakeLoyalty") -> None:
        self._splio = splio
        self._is_open = True

    def hand_back(self) -> None:
        if self._is_open:
            self._is_open = False
            self._splio.handed_back += 1
            if self._splio.permits_left is not None:
                self._splio.give_permits(1)

    def use(self) -> None:
        assert self._is_open, "a permit is used once"
        self._is_open = False
        self._splio.used += 1


@dataclass
class FakeLoyalty:
    """
    Implements `LoyaltySplio` over the members, contacts, programmes and balances that it is given.

    `asked` are operation and subject of each request. `permits_left` limits permits, None is no
    limit. `go` is cleared to keep requests under way until their deadline. `errors` are raised
    instead of answers, one after the other.
    """

    clock: FakeClock
    balances: dict[str, int] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    contacts: dict[str, Contact] = field(default_factory=dict)
    programs: dict[str, LoyaltyProgram] = field(default_factory=dict)
    ledgers: dict[str, list[str]] = field(default_factory=dict)
    errors: dict[Operation, deque[RelayError]] = field(default_factory=lambda: defaultdict(deque))
    asked: list[tuple[Operation, str]] = field(default_factory=list)
    codes: tuple[str, ...] = ("code",)  # that a grant gives out
    permits_left: int | None = None
    taken: int = 0
    used: int = 0
    handed_back: int = 0
    waiting: int = 0

    def __post_init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self._permits_changed = asyncio.Event()

    @property
    def permits_out(self) -> int:
        """Permits that were neither used nor handed back."""
        return self.taken - self.used - self.handed_back

    def subjects(self, operation: Operation) -> list[str]:
        """What was asked for by these requests."""
        return [subject for of, subject in self.asked if of is operation]

    def give_permits(self, number: int) -> None:
        self.permits_left = (self.permits_left or 0) + number
        self._permits_changed.set()

    async def checkout_permit(self) -> Permit:
        self.waiting += 1
        try:
            while self.permits_left == 0:
                self._permits_changed.clear()
                await self._permits_changed.wait()
        finally:
            self.waiting -= 1
        if self.permits_left is not None:
            self.permits_left -= 1
        self.taken += 1
        return FakePlace(self)

    async def read_balance(
        self, card: str, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> int | None:
        await self._send(Operation.READ_BALANCE, card, permit, deadline_s)
        return self.balances.get(card)

    async def read_member(
        self, card: str, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Member | None:
        await self._send(Operation.READ_MEMBER, card, permit, deadline_s)
        return self.members.get(card)

    async def read_contact(
        self, key: str, *, is_internal: bool = False, deadline_s: float, traceparent: str
    ) -> Contact | None:
        await self._send(Operation.READ_CONTACT, key, None, deadline_s)
        return self.contacts.get(key)

    async def read_program(
        self, program: str, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> LoyaltyProgram | None:
        await self._send(Operation.READ_PROGRAM, program, permit, deadline_s)
        return self.programs.get(program)

    async def shown_debits(
        self, card: str, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Sequence[str]:
        await self._send(Operation.LIST_POINTS, card, permit, deadline_s)
        return self.ledgers.get(card, [])

    async def create_member(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Registered | Missing:
        body = orjson.loads(request.body)
        key, program = body["contact_id"], str(body["program_id"])
        await self._send(Operation.CREATE_MEMBER, key, permit, deadline_s)
        card = f"card-{len(self.subjects(Operation.CREATE_MEMBER))}"
        known = self.contacts.get(key)
        cards = (*(known.cards if known else ()), (card, program))
        self.contacts[key] = Contact(unique_key=key, email=None, cards=cards)
        return Registered(card, 200)

    async def grant(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Granted:
        await self._send(Operation.GRANT, request.path, permit, deadline_s)
        return Granted(200, self.codes)

    async def count_grants(
        self, request: RenderedRequest, *, key: EffectKey, traceparent: str
    ) -> int:
        return sum(reasons.count(key) for reasons in self.ledgers.values())

    async def _send(
        self, operation: Operation, subject: str, permit: Permit | None, deadline_s: float
    ) -> None:
        left_s = deadline_s - self.clock.monotonic_s()
        if permit is not None:
            assert isinstance(permit, FakePlace)
            if left_s <= 0:
                permit.hand_back()
                raise RetryableError("deadline_passed")
            permit.use()
        self.asked.append((operation, subject))
        try:
            async with time_limit(self.clock, left_s):
                await self.go.wait()
        except TimeoutError as error:
            raise RetryableError("no_answer") from error
        if self.errors[operation]:
            raise self.errors[operation].popleft()
