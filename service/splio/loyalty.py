"""The loyalty client: the `LoyaltySplio` port over HTTP."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import orjson

from service.domain.clock import Clock
from service.domain.effects import EffectKey, Lane, RenderedRequest
from service.domain.errors import PermanentError, RetryableError
from service.domain.loyalty import Contact, Granted, LoyaltyProgram, Member, Registered
from service.domain.ports import Missing, Operation, Permit, UnknownCard
from service.splio.answers import (
    OK_STATUSES,
    accept_grant,
    accept_member,
    shows_unknown_reward,
)
from service.splio.config import SplioConfig
from service.splio.errors import describe, parse_errors
from service.splio.exchange import Exchange, SplioPermit, refusal
from service.splio.grants import (
    attributions_path,
    debits_path,
    granted_card,
    granted_reward,
    grants_in_attributions,
    grants_in_ledger,
)
from service.splio.members import (
    balance_path,
    contact_path,
    member_path,
    program_path,
    read_balance,
    read_contact,
    read_member,
    read_program,
)
from service.splio.readback import read_page, reason_of
from service.splio.reading import read_one, read_pages


class LoyaltyClient:
    """
    Members, balances and rewards of one universe (`LoyaltySplio`): `SplioClient.loyalty`.

    What is asked for and cannot be a part of a path ("", "..") is nobody's: None, unasked.
    """

    def __init__(self, exchange: Exchange, *, config: SplioConfig, clock: Clock) -> None:
        self._exchange = exchange
        self._contact_key = config.contact_key
        self._timezone = config.timezone
        self._clock = clock

    async def checkout_permit(self) -> SplioPermit:
        """Wait for the reserved part of the lane that balances and members are asked in."""
        return await self._exchange.permit(Lane.OTHER, reserved=True)

    async def read_balance(
        self, card: str, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> int | None:
        """The points that the card can spend now, None when Splio does not know the card."""
        return await read_one(
            self._exchange,
            Operation.READ_BALANCE,
            balance_path(card),
            read_balance,
            permit=permit,
            deadline_s=deadline_s,
            traceparent=traceparent,
        )

    async def read_member(
        self, card: str, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Member | None:
        """The member with this card, None when Splio does not know it."""
        return await read_one(
            self._exchange,
            Operation.READ_MEMBER,
            member_path(card),
            partial(read_member, card=card, timezone=self._timezone),
            permit=permit,
            deadline_s=deadline_s,
            traceparent=traceparent,
        )

    async def read_contact(
        self, key: str, *, is_internal: bool = False, deadline_s: float, traceparent: str
    ) -> Contact | None:
        """
        The contact with this unique key (or Splio's internal id), None when there is none.

        Raises: RetryableError `deadline_passed` when the lane had no room until then.
        """
        try:
            async with asyncio.timeout(deadline_s - self._clock.monotonic_s()):
                permit = await self._exchange.permit(Lane.CONTACTS)
        except TimeoutError as error:
            raise RetryableError("deadline_passed", "waited for a permit") from error
        return await self._read_contact(
            key,
            is_internal=is_internal,
            permit=permit,
            deadline_s=deadline_s,
            traceparent=traceparent,
        )

    async def read_program(
        self, program: str, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> LoyaltyProgram | None:
        """The programme, None when Splio does not know it."""
        return await read_one(
            self._exchange,
            Operation.READ_PROGRAM,
            program_path(program),
            partial(read_program, program=program),
            permit=permit,
            deadline_s=deadline_s,
            traceparent=traceparent,
        )

    async def shown_debits(
        self, card: str, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Sequence[str]:
        """The reasons of grants in one page of the card's points ledger, newest first."""
        page = await read_one(
            self._exchange,
            Operation.LIST_POINTS,
            debits_path(card),
            read_page,
            permit=permit,
            deadline_s=deadline_s,
            traceparent=traceparent,
        )
        reasons = map(reason_of, page.elements if page is not None else ())
        return [reason for reason in reasons if reason]

    async def create_member(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Registered | Missing:
        """Make a contact a member (Missing: its contact does not exist)."""
        operation = Operation.CREATE_MEMBER
        reply = await self._exchange.post(
            operation,
            request,
            permit=permit,
            deadline_s=deadline_s,
            traceparent=traceparent,
        )
        sent = orjson.loads(request.body)
        if reply.status in OK_STATUSES:
            return accept_member(reply.status, reply.body, program=sent["program_id"])
        answer = refusal(operation, reply)
        assert isinstance(answer, Missing)
        # Splio's sentence ends in a full stop, which no name tells from its own.
        return replace(answer, name=sent["contact_id"])

    async def grant(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Granted:
        """
        Grant and use a reward in one.

        Raises: PermanentError `unknown_card`, or `refused` for another documented refusal.
        """
        operation = Operation.GRANT
        reply = await self._exchange.post(
            operation,
            request,
            permit=permit,
            deadline_s=deadline_s,
            traceparent=traceparent,
        )
        if reply.status in OK_STATUSES:
            return accept_grant(reply.status, reply.body)
        errors = parse_errors(reply.body)
        detail = f"{reply.status} {describe(errors)}".rstrip()
        if shows_unknown_reward(reply.status, errors, reward=granted_reward(request)):
            raise PermanentError("refused", detail, status=reply.status)
        answer = refusal(operation, reply)
        assert isinstance(answer, UnknownCard)
        raise PermanentError("unknown_card", detail, status=reply.status)

    async def count_grants(
        self, request: RenderedRequest, *, key: EffectKey, traceparent: str
    ) -> int:
        """
        How many grants Splio shows whose reason is `key`: in the attributions of the contact who
        holds the card now, else in the points ledger.
        """
        card = granted_card(request)
        unique_key = await self._unique_key(card, traceparent)
        if unique_key is not None:
            shown = await self._dates_of_grants(
                Operation.LIST_GRANTS,
                partial(attributions_path, unique_key),
                partial(grants_in_attributions, key=key, card=card),
                traceparent,
            )
            if shown:
                return shown
        return await self._dates_of_grants(
            Operation.LIST_POINTS,
            partial(debits_path, card),
            partial(grants_in_ledger, key=key, card=card),
            traceparent,
        )

    async def _unique_key(self, card: str, traceparent: str) -> str | None:
        """The unique key of the card's contact, None for a card without one, or without a key."""
        permit = await self._exchange.permit(Lane.OTHER)
        member = await self.read_member(
            card,
            permit=permit,
            deadline_s=self._exchange.own_deadline_s(),
            traceparent=traceparent,
        )
        if member is None or member.contact_id is None:
            return None
        permit = await self._exchange.permit(Lane.CONTACTS)
        contact = await self._read_contact(
            member.contact_id,
            is_internal=True,
            permit=permit,
            deadline_s=self._exchange.own_deadline_s(),
            traceparent=traceparent,
        )
        return contact.unique_key if contact is not None else None

    async def _dates_of_grants(
        self,
        operation: Operation,
        path: Callable[..., str | None],
        select: Callable[[Iterable[Mapping[str, Any]]], frozenset[str]],
        traceparent: str,
    ) -> int:
        """How many dates all pages of a list show of our grants."""
        dates: frozenset[str] = frozenset()
        async for elements in read_pages(self._exchange, operation, path, traceparent=traceparent):
            dates |= select(elements)
        return len(dates)

    async def _read_contact(
        self, key: str, *, is_internal: bool, permit: Permit, deadline_s: float, traceparent: str
    ) -> Contact | None:
        return await read_one(
            self._exchange,
            Operation.READ_CONTACT,
            contact_path(key, is_internal=is_internal),
            partial(read_contact, key=key, is_internal=is_internal, contact_key=self._contact_key),
            permit=permit,
            deadline_s=deadline_s,
            traceparent=traceparent,
        )
