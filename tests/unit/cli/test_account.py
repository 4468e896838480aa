"""The statement of account: every way in which the points of a card do not add up is found."""

from dataclasses import replace
from typing import Any

import pytest

from service.cli.account import Account, Books, balance_account
from service.sandbox.checkout_report import CheckoutReport, Spent
from service.sandbox.deliveries import AcceptedOrder, DeliveryReport, Latency

CARD, OTHER = "2171900000013", "2171900000020"


def credit(context: str, points: int, card: str = CARD) -> dict[str, Any]:
    return {"context": context, "card_code": card, "nq_points": points}


def account_of(card: str, *, spent: int, balance: int) -> dict[str, Any]:
    return {"card_code": card, "earned": 0, "spent": spent, "balance": balance}


def order(name: str) -> dict[str, Any]:
    return {"external_id": name}


DELIVERIES = DeliveryReport(
    sent=1,
    by_status={"200": 1},
    accepted=(AcceptedOrder("1", CARD, 300),),
    deliveries={"1": 1},
    given_up=(),
    latency=Latency(0, 0, 0, 0),
    duration_s=0,
)
CHECKOUTS = CheckoutReport(
    calls={},
    webhooks={"200": 2},
    orders=(AcceptedOrder("2", CARD, 50), AcceptedOrder("3", OTHER, 20)),
    deliveries={"2": 1, "3": 1},
    spent=(Spent("2", CARD, captured=200, given_back=80, refused=0),),
    balances=1,
    registered=(),
    given_up=(),
    duration_s=0,
)
# Of 80 points given back 30 were never taken; 50 were credited.
BOOKS = Books(
    tenant="main",
    orders=(order("1"), order("2"), order("3")),
    credits_=(
        credit("main:earn:1", 300),
        credit("main:earn:2", 50),
        credit("main:earn:3", 20, OTHER),
        credit("main:refund:club:r1", 50),
    ),
    accounts=(account_of(CARD, spent=170, balance=230), account_of(OTHER, spent=0, balance=20)),
    grant_doubles=(),
    holds=(),
    set_aside=(),
    still_open=0,
)


def account(books: Books, checkouts: CheckoutReport = CHECKOUTS) -> Account:
    return balance_account(books, DELIVERIES, checkouts)


def without(context: str) -> tuple[Any, ...]:
    return tuple(each for each in BOOKS.credits_ if each["context"] != context)


def test_points_that_add_up_balance() -> None:
    found = account(BOOKS)
    assert found.balances()
    assert (found.points_earned, found.points_booked) == (370, 370)
    assert (found.points_spent, found.points_given_back) == (200, 80)
    assert (found.points_taken, found.points_credited_back, found.points_held) == (170, 50, 0)
    assert (found.points_at_splio, found.cards, found.cards_off) == (250, 2, 0)


BROKEN = {
    "debit lost": replace(
        BOOKS,
        accounts=(account_of(CARD, spent=70, balance=330), BOOKS.accounts[1]),
    ),
    "debit twice": replace(
        BOOKS,
        accounts=(account_of(CARD, spent=270, balance=130), BOOKS.accounts[1]),
    ),
    "refund lost": replace(
        BOOKS,
        credits_=without("main:refund:club:r1"),
        accounts=(account_of(CARD, spent=170, balance=180), BOOKS.accounts[1]),
    ),
    "points of an order on another card": replace(
        BOOKS,
        credits_=(*without("main:earn:3"), credit("main:earn:3", 20)),
        accounts=(account_of(CARD, spent=170, balance=250), account_of(OTHER, spent=0, balance=0)),
    ),
    "credit of somebody else": replace(
        BOOKS,
        credits_=(*BOOKS.credits_, credit("gift", 5)),
        accounts=(account_of(CARD, spent=170, balance=235), BOOKS.accounts[1]),
    ),
    "books that do not add up": replace(
        BOOKS, accounts=(account_of(CARD, spent=170, balance=231), BOOKS.accounts[1])
    ),
    "held beside what was taken": replace(BOOKS, holds=({"card": CARD, "held": 10},)),
}


@pytest.mark.parametrize("books", BROKEN.values(), ids=BROKEN)
def test_card_that_does_not_add_up_is_found(books: Books) -> None:
    found = account(books)
    assert found.cards_off
    assert not found.balances()


def test_points_held_instead_of_taken_add_up() -> None:
    books = replace(
        BOOKS,
        accounts=(account_of(CARD, spent=70, balance=330), BOOKS.accounts[1]),
        holds=({"card": CARD, "held": 100},),
    )
    assert account(books).balances()
    assert not account(replace(books, still_open=1)).balances()


def test_lost_orders_and_points_are_counted() -> None:
    assert account(replace(BOOKS, orders=BOOKS.orders[:2])).lost == 1
    found = account(replace(BOOKS, credits_=without("main:earn:1")))
    assert (found.lost, found.balances()) == (1, False)


def test_what_a_person_was_told_about_is_not_lost() -> None:
    books = replace(
        BOOKS,
        orders=BOOKS.orders[:2],
        credits_=without("main:earn:3"),
        accounts=(BOOKS.accounts[0],),
        set_aside={("3", "order"), ("3", "earn")},
    )
    assert account(books).balances()


def test_doubles_are_counted_in_orders_credits_and_grants() -> None:
    assert account(replace(BOOKS, orders=(*BOOKS.orders, order("1")))).twice == 1
    assert account(replace(BOOKS, credits_=(*BOOKS.credits_, BOOKS.credits_[0]))).twice == 1
    found = account(replace(BOOKS, grant_doubles=({"reason_msg": "main:debit:club:k:1:100"},)))
    assert (found.twice, found.balances()) == (1, False)


def test_what_was_never_answered_does_not_balance() -> None:
    found = account(BOOKS, replace(CHECKOUTS, given_up=("capture of 2",)))
    assert (found.unanswered, found.balances()) == (1, False)
