"""The statement of account: what SCAYLE was answered compared with what Splio's books hold."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from service.sandbox.checkout_report import CheckoutReport
from service.sandbox.deliveries import AcceptedOrder, DeliveryReport

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Books:
    """
    What Splio and the service hold, once everything came to rest.

    `orders`, `credits_`, `accounts` and `grant_doubles` are the sandbox's rows, `holds` those that
    are open. `set_aside`: order and kind of what a person was told about. `still_open`: effects,
    and holds that wait for them.
    """

    tenant: str
    orders: Rows
    credits_: Rows
    accounts: Rows
    grant_doubles: Rows
    holds: Rows
    set_aside: Collection[tuple[str, str]]
    still_open: int


@dataclass(frozen=True, slots=True)
class Account:
    """
    The figures, all of points and orders answered 200 and of Splio's books.

    `lost`: answered 200 and neither at Splio nor set aside. `twice`: more than once at Splio.
    `cards_off`: cards that fail one of the sums that `CardAccount` names. `unanswered`: webhooks
    and calls that SCAYLE gave up.
    """

    orders_taken: int
    orders_booked: int
    set_aside: int
    points_earned: int
    points_booked: int
    points_spent: int
    points_given_back: int
    points_taken: int
    points_credited_back: int
    points_held: int
    points_at_splio: int
    cards: int
    cards_off: int
    still_open: int
    unanswered: int
    lost: int
    twice: int

    def balances(self) -> bool:
        """Whether everything arrived once, and every point is where it belongs."""
        return not (self.lost or self.twice or self.still_open or self.unanswered or self.cards_off)


@dataclass(frozen=True, slots=True)
class CardAccount:
    """
    The points of one card: `earned`, `captured` and `given_back` as SCAYLE was answered, `held`
    by the service, the others of Splio's books (`other`: credits that are none of ours).
    """

    earned: int
    captured: int
    given_back: int
    held: int
    booked: int
    credited_back: int
    other: int
    taken: int
    balance: int

    def balances(self) -> bool:
        """Whether earning, spending and what is left each add up."""
        return (
            self.booked == self.earned
            and not self.other
            and self.captured - self.given_back == self.taken - self.credited_back + self.held
            and self.booked + self.other - self.taken + self.credited_back == self.balance
        )


def balance_account(books: Books, deliveries: DeliveryReport, checkouts: CheckoutReport) -> Account:
    """The account of the orders delivered and of those that came out of checkouts."""
    accepted = [*deliveries.accepted, *checkouts.orders]
    cards = card_accounts(books, accepted, checkouts)
    orders = [order["external_id"] for order in books.orders]
    contexts = [credit["context"] for credit in books.credits_]
    return Account(
        orders_taken=len(accepted),
        orders_booked=len(orders),
        set_aside=len(books.set_aside),
        points_earned=sum(order.points for order in accepted),
        points_booked=sum(card.booked for card in cards.values()),
        points_spent=checkouts.captured,
        points_given_back=checkouts.given_back,
        points_taken=sum(card.taken for card in cards.values()),
        points_credited_back=sum(card.credited_back for card in cards.values()),
        points_held=sum(card.held for card in cards.values()),
        points_at_splio=sum(card.balance for card in cards.values()),
        cards=len(cards),
        cards_off=sum(not card.balances() for card in cards.values()),
        still_open=books.still_open,
        unanswered=len(deliveries.given_up) + len(checkouts.given_up),
        lost=_count_lost(books, accepted, orders=set(orders), contexts=set(contexts)),
        twice=len(orders)
        - len(set(orders))
        + len(contexts)
        - len(set(contexts))
        + len(books.grant_doubles),
    )


def card_accounts(
    books: Books, accepted: Sequence[AcceptedOrder], checkouts: CheckoutReport
) -> dict[str, CardAccount]:
    """One for every card that was used or that Splio has points of."""
    sums: dict[str, Counter[str]] = {}

    def add(card: str, **points: int) -> None:
        sums.setdefault(card, Counter()).update(points)

    for order in accepted:
        if order.card is not None and (order.order_id, "earn") not in books.set_aside:
            add(order.card, earned=order.points)
    for spent in checkouts.spent:
        add(spent.card, captured=spent.captured, given_back=spent.given_back)
    for hold in books.holds:
        add(hold["card"], held=hold["held"])
    names = {f"{books.tenant}:earn": "booked", f"{books.tenant}:refund": "credited_back"}
    for credit in books.credits_:
        kind = ":".join(credit["context"].split(":")[:2])
        add(credit["card_code"], **{names.get(kind, "other"): credit["nq_points"]})
    for account in books.accounts:
        add(account["card_code"], taken=account["spent"], balance=account["balance"])
    fields = CardAccount.__dataclass_fields__
    return {
        card: CardAccount(**{name: points[name] for name in fields})
        for card, points in sums.items()
    }


def print_statement(
    console: Console,
    deliveries: DeliveryReport,
    checkouts: CheckoutReport,
    account: Account,
    faults: Mapping[str, Mapping[str, int]],
) -> None:
    """The account as a table; `faults` as the sandbox's statement tells them."""
    webhooks = deliveries.sent + sum(checkouts.webhooks.values())
    answered = sum(deliveries.deliveries.values()) + sum(checkouts.deliveries.values())
    calls = sum(sum(by_status.values()) for by_status in checkouts.calls.values())
    table = Table(title="Statement of account", show_header=False, title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for name, value in (
        ("deliveries sent by SCAYLE", webhooks),
        ("answered 200", answered),
        ("orders in them", account.orders_taken),
        ("duplicates refused", answered - account.orders_taken),
        ("orders at Splio", account.orders_booked),
        ("orders without an e-mail address, set aside", account.set_aside),
        ("calls by SCAYLE's checkout", calls),
        ("cards registered", len(checkouts.registered)),
        ("points earned", account.points_earned),
        ("points booked at Splio", account.points_booked),
        ("points spent (captured)", account.points_spent),
        ("points given back (refunded)", account.points_given_back),
        ("points taken at Splio", account.points_taken),
        ("points credited back at Splio", account.points_credited_back),
        ("points still held", account.points_held),
        ("points on the cards at Splio", account.points_at_splio),
        ("cards", account.cards),
        ("cards that do not add up", account.cards_off),
        ("faults survived", sum(sum(by_kind.values()) for by_kind in faults.values())),
        ("never answered", account.unanswered),
        ("still open", account.still_open),
        ("lost", account.lost),
        ("twice", account.twice),
    ):
        table.add_row(name, str(value))
    console.print()
    console.print(table)


def _count_lost(
    books: Books,
    accepted: Sequence[AcceptedOrder],
    *,
    orders: Collection[str],
    contexts: Collection[str],
) -> int:
    lost = 0
    for order in accepted:
        name = order.order_id
        lost += name not in orders and (name, "order") not in books.set_aside
        is_booked = f"{books.tenant}:earn:{name}" in contexts
        lost += bool(order.points) and not is_booked and (name, "earn") not in books.set_aside
    return lost
