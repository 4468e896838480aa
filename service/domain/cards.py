"""The form of card numbers, as far as it can be told without asking Splio."""

from dataclasses import dataclass
from typing import Final

EAN13_LENGTH: Final = 13


@dataclass(frozen=True, slots=True)
class CardForm:
    """
    What every card number of the shop fulfils; each mark that is set must hold.

    Source of the check digits: GS1 General Specifications 7.9 (EAN-13), ISO/IEC 7812-1 (Luhn).
    """

    digits: bool = False
    ean13: bool = False
    luhn: bool = False
    min_length: int = 1
    max_length: int = 64

    def fits(self, card: str) -> bool:
        """Whether `card` has this form."""
        if not self.min_length <= len(card) <= self.max_length:
            return False
        if not (self.digits or self.ean13 or self.luhn):
            return True
        if not (card.isascii() and card.isdigit()):
            return False
        if self.ean13 and (len(card) != EAN13_LENGTH or _ean13_sum(card) % 10):
            return False
        return not (self.luhn and _luhn_sum(card) % 10)


def _ean13_sum(digits: str) -> int:
    return sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(digits))


def _luhn_sum(digits: str) -> int:
    """Every second digit from the right counts twice, less 9 where that has two digits."""
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return sum(number - 9 if number > 9 else number for number in doubled)  # noqa: PLR2004
