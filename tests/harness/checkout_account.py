"""Compares Splio's books with what SCAYLE Checkout was answered, card by card."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Protocol

from tests.harness.account import Rows
from tests.harness.checkout_life import CheckoutReport
from tests.harness.checkout_plan import START_POINTS, CheckoutPlan
from tests.harness.files import LedgerView, count_holds
from tests.harness.sandbox_account import START_CONTEXT, SandboxAccount

EARNED: Final = "main:earn:"
_REFUNDED: Final = "main:refund:"
_DEBITS: Final = "SELECT effect_key, points FROM effects WHERE kind = 'debit' AND state = 'applied'"
_REFUNDS: Final = (
    "SELECT effect_key, points FROM effects WHERE kind = 'refund' AND state = 'applied' "
    "AND coalesce(reason, '') <> 'hold_shrunk'"
)


class CheckoutBooks(Protocol):
    """Splio's books, as the sandbox keeps them."""

    async def credits(self) -> Rows: ...

    async def attributions(self) -> Rows: ...

    async def accounts(self) -> Rows: ...

    async def statement(self) -> Mapping[str, Any]: ...


async def assert_points_add_up(
    ledger: LedgerView,
    books: CheckoutBooks,
    plan: CheckoutPlan,
    *,
    earned: Mapping[str, int],
) -> None:
    """
    All came to rest: no hold is open, each debit was granted once and each refund credited once
    at most, and every card has at Splio what it earned, less what it spent.
    """
    assert not count_holds(ledger)
    statement = await books.statement()
    assert statement["doubles"] == []
    assert statement["grant_doubles"] == []
    granted: Counter[str] = Counter()
    uses: dict[str, set[str]] = {}
    for row in await books.attributions():
        granted[row["reason_msg"]] += row["nq_points"]
        uses.setdefault(row["reason_msg"], set()).add(row["uuid"])
    assert granted == dict(ledger.rows(_DEBITS))
    assert not {reason: uuids for reason, uuids in uses.items() if len(uuids) != 1}
    credits_ = await books.credits()
    credited = {
        row["context"]: row["nq_points"] for row in credits_ if row["context"].startswith(_REFUNDED)
    }
    assert credited == dict(ledger.rows(_REFUNDS))
    unknown = [
        row["context"]
        for row in credits_
        if not row["context"].startswith((EARNED, _REFUNDED, START_CONTEXT))
    ]
    assert not unknown
    refunds = {f"{_REFUNDED}splio_club:{key}": whose for key, whose in plan.refunds().items()}
    given_back: Counter[str] = Counter()
    for context, points in credited.items():
        card, wanted = refunds[context]
        assert points == wanted, context
        given_back[card] += points
    spent = plan.spent_by_card()
    for account in await books.accounts():
        card = account["card_code"]
        start = START_POINTS if card in plan.cards else 0
        has_earned = start + earned.get(card, 0)
        assert account["spent"] - given_back[card] == spent.get(card, 0), card
        assert account["earned"] == has_earned + given_back[card], card
        assert account["balance"] == has_earned - spent.get(card, 0), card


async def assert_one_card_each(
    account: SandboxAccount, report: CheckoutReport, plan: CheckoutPlan
) -> None:
    """Each customer was told one card, the only one that the contact has at Splio."""
    assert report.cards.keys() == set(plan.emails)
    for email, told in report.cards.items():
        assert await account.cards_of(email) == list(told), email
