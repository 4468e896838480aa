"""The refusals that Splio documents, operation by operation, and what each means."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from service.domain.ports import Operation
from service.splio.errors import SplioError


class Means(Enum):
    """What one entry of a refusal says."""

    EXISTS = auto()
    NO_CONTACT = auto()
    NO_PRODUCT = auto()
    NO_STORE = auto()
    NO_CARD = auto()
    REFUSED = auto()
    GONE = auto()
    WRONG_API_KEY = auto()


@dataclass(frozen=True, slots=True)
class _Rule:
    """
    A documented refusal; None matches anything, `phrase` is looked for in the description.

    `wrong_value` stands for "not found" and for "already exists": only key and phrase tell.
    """

    means: Means
    key: str | None = None
    slug: str | None = None
    phrase: str | None = None
    statuses: tuple[int, ...] = (400,)

    def matches(self, status: int, error: SplioError) -> bool:
        return (
            status in self.statuses
            and (self.key is None or self.key == error.key)
            and (self.slug is None or self.slug == error.slug)
            and (self.phrase is None or self.phrase in error.description.lower())
        )


_BAD_REQUEST_OR_NOT_FOUND: Final = (400, 404)
_WRONG_TYPE: Final = _Rule(Means.REFUSED, slug="wrong_type")
_NO_FIELD: Final = _Rule(Means.REFUSED, "custom_fields", "wrong_value", "not found")
_MISSING_FIRST: Final = tuple(
    _Rule(means, key, "wrong_value", "not found", _BAD_REQUEST_OR_NOT_FOUND)
    for means, key in (
        (Means.NO_CONTACT, "individual_id"),
        (Means.NO_PRODUCT, "product_id"),
        (Means.NO_STORE, "store_external_id"),
    )
)
_KNOWN_ALREADY: Final = _Rule(Means.EXISTS, phrase="already exists", statuses=(400, 409))

# Of texts only (shape 4), as member creation answers: neither key nor slug.
_NO_PROGRAM_THEN: Final = _Rule(Means.REFUSED, "", "", "loyalty program could not be found")
_NO_CARD_CODE: Final = _Rule(Means.REFUSED, "", "", "status must have a card code")

# Contract sections A.1, B.4, C.1, C.4, C.6, D.1. What stands nowhere there pauses the lane.
# What reading says of absence is no refusal: `answers.shows_absent`.
_RULES: Final[dict[Operation, tuple[_Rule, ...]]] = {
    Operation.AUTHENTICATE: (
        _Rule(Means.WRONG_API_KEY, "username", "authentication.failed"),
        _Rule(Means.WRONG_API_KEY, "api_key", "is_blank"),
    ),
    Operation.POST_ORDER: (
        _Rule(Means.EXISTS, "external_id", "wrong_value", "already exists"),
        *_MISSING_FIRST,
        _NO_FIELD,
        _WRONG_TYPE,
        _Rule(Means.REFUSED, "ordered_at", "wrong_value"),
    ),
    Operation.UPDATE_ORDER: (
        _Rule(Means.GONE, "ext_id", "wrong_value", "not found", (404,)),
        *_MISSING_FIRST,  # documented for POST; PATCH names the same things
        _NO_FIELD,
        _WRONG_TYPE,
        _Rule(Means.REFUSED, "ordered_at", "wrong_value"),
    ),
    Operation.CREDIT: (
        _Rule(Means.NO_CARD, "card_code", statuses=(404,)),
        _WRONG_TYPE,
        _Rule(Means.REFUSED, "", "", "program not found"),
    ),
    Operation.CREATE_CONTACT: (
        _KNOWN_ALREADY,
        _NO_FIELD,
        _WRONG_TYPE,
        _Rule(Means.REFUSED, "contact_key", "wrong_contact_key"),
        _Rule(Means.REFUSED, "email", "wrong_email"),
    ),
    Operation.CREATE_PRODUCT: (_KNOWN_ALREADY, _NO_FIELD, _WRONG_TYPE),
    Operation.CREATE_STORE: (_KNOWN_ALREADY, _NO_FIELD, _WRONG_TYPE),
    Operation.READ_ORDER: (),
    Operation.LIST_POINTS: (),
    Operation.READ_CONTACT: (),
    Operation.READ_MEMBER: (),
    Operation.READ_BALANCE: (),
    Operation.READ_PROGRAM: (),
    Operation.LIST_GRANTS: (),
    Operation.CREATE_MEMBER: (
        _Rule(Means.NO_CONTACT, "individual_id", "wrong_value", "not found"),
        _WRONG_TYPE,
        _Rule(Means.REFUSED, "program_id", "wrong_status"),
        _NO_PROGRAM_THEN,
        _NO_CARD_CODE,
        _Rule(Means.REFUSED, phrase="failed to generate a card code", statuses=(409,)),
    ),
    # An unknown reward is not here: only its id tells that text from a page at a wrong address.
    Operation.GRANT: (
        _Rule(Means.NO_CARD, "card_code", "not_found"),
        _Rule(Means.REFUSED, slug="wrong_field_type"),
        _Rule(Means.REFUSED, "grant_date", "wrong_value"),
        _Rule(Means.REFUSED, "burned_date", "wrong_value"),
        _Rule(Means.REFUSED, "burned_date", "inconsistent_dates"),
        _Rule(Means.REFUSED, "reward_stock", "not enough stock"),
        _Rule(Means.REFUSED, "reward.force_validity_start", "reward_not_started"),
        _Rule(Means.REFUSED, "reward_id", "wrong_value", "not found", (404,)),
        _Rule(Means.REFUSED, slug="invalid_burn_data"),
        _Rule(Means.REFUSED, "", "not_found", "universe_stores", (404,)),
    ),
}


def meaning(operation: Operation, status: int, error: SplioError) -> Means | None:
    """What `error` says, None when nobody documented it."""
    for rule in _RULES[operation]:
        if rule.matches(status, error):
            return rule.means
    return None
