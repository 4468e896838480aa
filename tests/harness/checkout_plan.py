"""What a SCAYLE Checkout does in one life: purchases paid with points, and customers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from random import Random
from typing import Any, Final

from service.sandbox.checks import ean13_check_digit

PROGRAM: Final = "splio_club"
TOKEN: Final = "crash-test-token"
START_POINTS: Final = 50_000  # of every card, more than anybody spends here

LOYALTY_SETTINGS: Final[Mapping[str, str]] = {
    "RELAY_LOYALTY_TOKENS": f"*={TOKEN}",
    "RELAY_LOYALTY_PROGRAMS": f"{PROGRAM}=1",
    "RELAY_LOYALTY_RATES": f"{PROGRAM}:EUR=0.01",
    "RELAY_LOYALTY_AMOUNT_UNIT": "points",
    "RELAY_LOYALTY_TIMEOUT": "1s",
    "RELAY_BALANCE_FRESH": "100ms",
    "RELAY_DEBIT_BY": "reward",
    "RELAY_DEBIT_REWARDS": "1=PT1,10=PT10,100=PT100,1000=PT1000",
}

OK: Final = frozenset({HTTPStatus.OK, HTTPStatus.CREATED})
REFUSED: Final = frozenset({HTTPStatus.CONFLICT})


@dataclass(frozen=True, slots=True)
class Call:
    """One call, repeated until it is answered; `ends` are the right answers."""

    operation: str
    document: Mapping[str, Any]
    ends: frozenset[HTTPStatus] = OK
    is_doubled: bool = False  # sent once more after its answer


@dataclass(frozen=True, slots=True)
class Purchase:
    """
    An order paid with points. Calls of one stage are under way together, the next stage begins
    when all are answered.
    """

    card: str
    key: str
    captured: int
    given_back: Mapping[str, int]
    stages: Sequence[Sequence[Call]]


@dataclass(frozen=True, slots=True)
class CheckoutPlan:
    """
    Args:
        watched: a card of purchases without refunds, whose balance is asked for all the time.
        emails: customers who register, each several times at once.
        collects: the points of orders, where the checkout books them.
    """

    purchases: Sequence[Purchase]
    watched: str
    emails: Sequence[str]
    collects: Sequence[Call] = field(default=())

    @property
    def cards(self) -> list[str]:
        """Every card that pays."""
        return sorted({purchase.card for purchase in self.purchases})

    def spent_by_card(self) -> Mapping[str, int]:
        """What is captured and not given back."""
        spent: Counter[str] = Counter()
        for purchase in self.purchases:
            spent[purchase.card] += purchase.captured - sum(purchase.given_back.values())
        return spent

    def refunds(self) -> Mapping[str, tuple[str, int]]:
        """Card and points of each refund that is taken, by its transaction key."""
        return {
            key: (purchase.card, points)
            for purchase in self.purchases
            for key, points in purchase.given_back.items()
        }


def plan_checkout(
    envelopes: Sequence[Mapping[str, Any]], *, seed: int, purchases: int, collects: bool
) -> CheckoutPlan:
    """The same for the same arguments; half of the purchases are by customers of `envelopes`."""
    draw = Random(f"checkout-{seed}")
    payloads = [envelope["payload"] for envelope in envelopes]
    known = sorted({card["cardNumber"] for each in payloads if (card := each.get("loyaltyCard"))})
    cards = [*draw.sample(known, min(3, len(known))), *map(own_card, range(1, 3))]
    watched = own_card(0)
    emails = sorted({each["customer"]["email"].lower() for each in payloads})
    planned = [
        _purchase(draw, number, cards[number % len(cards)], _MANNERS[number % len(_MANNERS)])
        for number in range(purchases)
    ]
    planned += [_purchase(draw, purchases + number, watched, "kept") for number in range(4)]
    draw.shuffle(planned)
    return CheckoutPlan(
        purchases=planned,
        watched=watched,
        emails=[*draw.sample(emails, 2), f"new-{seed}-1@example.com", f"new-{seed}-2@example.com"],
        collects=list(_collects(payloads)) if collects else (),
    )


_MANNERS: Final = (
    "kept",
    "given_back",
    "in_parts",
    "refund_first",
    "all_at_once",
    "one_key",
    "at_once_in_full",
    "too_much",
)


def _purchase(draw: Random, number: int, card: str, manner: str) -> Purchase:
    captured = draw.randint(30, 2500)
    key = f"k-{number}"

    def call(operation: str, points: int, name: str, ends: frozenset[HTTPStatus] = OK) -> Call:
        document = {
            "type": PROGRAM,
            "cardKey": card,
            "amount": points,
            "currency": "EUR",
            "orderId": f"paid-{number}",
            "transactionKey": name,
        }
        return Call(operation, document, ends, is_doubled=draw.random() < _DOUBLED)

    def refund(name: str, points: int) -> Call:
        given_back[name] = points
        return call("refund", points, name)

    given_back: dict[str, int] = {}
    capture = call("capture", captured, key)
    stages: list[list[Call]] = []
    match manner:
        case "kept":
            stages = [[capture]]
        case "given_back":
            stages = [[capture], [refund(f"{key}-r", captured)]]
        case "in_parts":
            stages = [[capture], [refund(f"{key}-r1", captured // 3), refund(f"{key}-r2", 7)]]
        case "refund_first":
            stages = [[refund(f"{key}-r", captured // 2)], [capture]]
        case "all_at_once":
            stages = [[capture, refund(f"{key}-r1", captured // 4), refund(f"{key}-r2", 11)]]
        case "one_key":
            stages = [[capture], [refund(key, captured // 2)]]
        case "at_once_in_full":
            stages = [[capture, refund(f"{key}-r", captured)]]
        case "too_much":
            beyond = call("refund", captured - 4, f"{key}-r2", REFUSED)
            stages = [[capture], [refund(f"{key}-r1", 5)], [beyond]]
        case _:
            raise AssertionError(manner)
    return Purchase(card, key, captured, given_back, stages)


_DOUBLED: Final = 0.35


def _collects(payloads: Sequence[Mapping[str, Any]]) -> Iterator[Call]:
    for payload in payloads:
        card = payload.get("loyaltyCard") or {}
        if card.get("points"):
            yield Call(
                "collect",
                {
                    "type": PROGRAM,
                    "cardKey": card["cardNumber"],
                    "points": card["points"],
                    "orderId": payload["id"],
                },
                is_doubled=int(payload["id"]) % 3 == 0,
            )


def own_card(number: int) -> str:
    """A card that no generated customer has."""
    digits = f"2171799{number:05d}"
    return digits + ean13_check_digit(digits)
