"""What must hold of a run in which something broke, once all of it was delivered."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol

from tests.harness.account import Rows, compare, earned_by_card, points_by_card
from tests.harness.files import (
    LedgerView,
    assert_ledger_is_sound,
    backlog,
    count_open,
    planned_orders,
)
from tests.harness.place import Place
from tests.harness.waiting import until

_TOLD: Final = 6000  # characters of the log beside a failure


class Books(Protocol):
    """Splio's books, as the sandbox keeps them."""

    async def orders(self) -> Rows: ...

    async def credits(self) -> Rows: ...

    async def statement(self) -> Mapping[str, Any]: ...


async def wait_settled(
    place: Place,
    accepted: Collection[str],
    *,
    log_text: Callable[[], str],
    timeout_s: float = 30.0,
) -> None:
    """
    Wait until every accepted order is planned, the log is read to its end and nothing is open.

    Raises: AssertionError with the end of what the service wrote.
    """

    async def is_done() -> bool:
        return (
            planned_orders(place.ledger) >= set(accepted)
            and not await backlog(place.log, place.ledger)
            and not count_open(place.ledger)
        )

    try:
        await until(is_done, what="everything is settled", timeout_s=timeout_s)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{log_text()[-_TOLD:]}") from None


async def assert_exact(
    ledger: LedgerView,
    books: Books,
    envelopes: Sequence[Mapping[str, Any]],
    *,
    accepted: Collection[str],
    posted_twice: int = 0,
    set_aside: Collection[tuple[str, str]] = (),
) -> None:
    """
    Everything that was sent was answered 200, and is at Splio once; the ledger is sound.

    `posted_twice`: repeats of an order that Splio refused. Also such a one shows that something
    was sent without having been looked up. `set_aside`: as for `compare`.
    """
    orders, credits_ = await books.orders(), await books.credits()
    account = compare(
        envelopes, accepted=accepted, orders=orders, credits_=credits_, set_aside=set_aside
    )
    account.assert_balances()
    assert len(accepted) == len(envelopes)
    if not set_aside:
        assert points_by_card(credits_) == earned_by_card(envelopes)
    assert (await books.statement())["orders_posted_twice"] == posted_twice
    assert_ledger_is_sound(ledger)
