"""Members, cards and balances as Splio tells them, and the port that asks for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from service.domain.effects import EffectKey, RenderedRequest
from service.domain.ports import Missing, Permit


@dataclass(frozen=True, slots=True)
class Member:
    """
    A card with what Splio tells of its holder.

    `program` is Splio's id, as text. `expires_at` and `joined_at` are None when not told; "never"
    (9998) is a time like any other. `email` is lower case.
    """

    card: str
    program: str
    joined_at: datetime | None
    expires_at: datetime | None
    email: str | None
    contact_id: str | None  # Splio's internal id of the contact, None for a card without one


@dataclass(frozen=True, slots=True)
class Contact:
    """
    A contact with its cards, (card, programme) in Splio's order.

    `unique_key` is the value of the universe's unique key, None when the answer does not show it.
    """

    unique_key: str | None
    email: str | None
    cards: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class LoyaltyProgram:
    """
    A programme: whether contacts become members by themselves, and the money that a point is
    worth (`points_to_amount`, exact decimal text), None when not told.
    """

    is_running: bool
    subscribes_automatically: bool
    points_to_amount: str | None


@dataclass(frozen=True, slots=True)
class Registered:
    """Splio made the membership: its card."""

    card: str
    status: int


@dataclass(frozen=True, slots=True)
class Granted:
    """
    Splio granted a reward. `codes` are the codes given out, none where it says it knew the key.
    """

    status: int
    codes: tuple[str, ...]


class LoyaltySplio(Protocol):
    """
    Splio's members, balances and rewards. Errors and deadlines as in the port `Splio`.

    Reads take no effect, so their errors are RetryableError, PermanentError, LanePausedError.
    """

    async def checkout_permit(self) -> Permit:
        """Wait for the reserved part of the lane that balances and members are asked in."""
        ...

    async def read_balance(
        self, card: str, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> int | None:
        """The points that the card can spend now, None when Splio does not know the card."""
        ...

    async def read_member(
        self, card: str, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Member | None:
        """The member with this card, None when Splio does not know it."""
        ...

    async def read_contact(
        self, key: str, *, is_internal: bool = False, deadline_s: float, traceparent: str
    ) -> Contact | None:
        """
        The contact with this unique key (or Splio's internal id), None when there is none.

        Takes its own permit within the deadline (RetryableError `deadline_passed`).
        """
        ...

    async def read_program(
        self, program: str, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> LoyaltyProgram | None:
        """The programme, None when Splio does not know it."""
        ...

    async def shown_debits(
        self, card: str, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Sequence[str]:
        """
        The reasons of grants that the card's points ledger shows, newest first: of ours, their
        effect keys. One page.
        """
        ...

    async def create_member(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Registered | Missing:
        """Make a contact a member (Missing: its contact does not exist)."""
        ...

    async def grant(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Granted:
        """
        Grant and use a reward in one.

        Raises besides: PermanentError for a documented refusal, LanePausedError
        `unknown_refusal` for one that nobody documented (too few points is not).
        """
        ...

    async def count_grants(
        self, request: RenderedRequest, *, key: EffectKey, traceparent: str
    ) -> int:
        """
        How many grants Splio shows whose reason is `key`: in the contact's attributions, else in
        the points ledger. Several codes of one grant are one.
        """
        ...
