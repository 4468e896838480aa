"""
The shapes that we assume of SCAYLE's requests, and where a shape that was seen differs.

Source: contract sections A.5 and A.7 to A.10 (order-confirmed), B.3 (the checkout's calls).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from service.web.structure import NOT_READ

T = TypeVar("T")


class Basis(StrEnum):
    """What an assumption rests on."""

    DOCUMENTED = "documented"
    INFERRED = "inferred"


class Deviation(StrEnum):
    """How what was seen at a path differs from what we assume."""

    MISSING = "missing"
    UNEXPECTED = "unexpected"
    OTHER_TYPE = "other_type"


@dataclass(frozen=True, slots=True)
class AssumedField:
    """`types` is empty where anything may stand, and below as well."""

    types: frozenset[str]
    basis: Basis
    is_optional: bool


AssumedShape = Mapping[str, AssumedField]


@dataclass(frozen=True, slots=True)
class Difference:
    """One path; `seen` and `assumed` are types, None where there is none."""

    path: str
    difference: Deviation
    seen: str | None
    assumed: str | None
    basis: Basis | None


_ANYTHING: Final = "any"
_FORMS: Final = ("object", "array")


def _assumed(*, documented: str = "", inferred: str = "") -> AssumedShape:
    """From lines `path types`, a path that may be absent followed by ?."""
    shape = {}
    for basis, lines in ((Basis.DOCUMENTED, documented), (Basis.INFERRED, inferred)):
        for line in lines.split("\n"):
            if not (text := line.strip()):
                continue
            path, types = text.split()
            shape[path.removesuffix("?")] = AssumedField(
                frozenset() if types == _ANYTHING else frozenset(types.split("|")),
                basis,
                is_optional=path.endswith("?"),
            )
    return shape


_SPENDING: Final = _assumed(
    documented="""
        amount          integer
        cardKey         string
        type            string
        currencyCode    string
        orderId         integer
        transactionKey  string
    """
)

# Documented is what a webhook page or the storefront's order type shows; what stands in an item,
# and what only the Admin API's order has, is inferred. Nothing of ours depends on what is `any`.
_ORDER_CONFIRMED: Final = _assumed(
    documented="""
        key                                     string
        type                                    string
        occurredAt                              string
        locale?                                 object
        locale.appId                            integer
        locale.countryCode                      string
        locale.currencyCode?                    string
        locale.languageCode                     string
        payload                                 object
        payload.id                              integer
        payload.address                         any
        payload.basketKey                       string
        payload.campaignKey?                    string|null
        payload.confirmedAt?                    string
        payload.contacts?                       any
        payload.createdAt                       string
        payload.updatedAt                       string
        payload.invoicedAt?                     string|null
        payload.currencyCode                    string
        payload.customData?                     any
        payload.detailedStatus?                 any
        payload.packages?                       any
        payload.payment?                        any
        payload.publicKey?                      string|null
        payload.referenceKey?                   string|null
        payload.shipping?                       any
        payload.shop?                           any
        payload.status                          string
        payload.vouchers?                       any
        payload.cost                            object
        payload.cost.appliedFees?               array
        payload.cost.appliedFees[]              object
        payload.cost.appliedFees[].amount       object
        payload.cost.appliedFees[].amount.withTax     integer
        payload.cost.appliedFees[].amount.withoutTax  integer
        payload.cost.appliedFees[].category     string
        payload.cost.appliedFees[].key          string
        payload.cost.appliedFees[].option?      any
        payload.cost.appliedFees[].tax          any
        payload.cost.appliedReductions?         array
        payload.cost.appliedReductions[]        object
        payload.cost.appliedReductions[].amount object
        payload.cost.appliedReductions[].amount.absoluteWithTax  integer
        payload.cost.appliedReductions[].amount.relative         number
        payload.cost.appliedReductions[].category  string
        payload.cost.appliedReductions[].code?     string|null
        payload.cost.appliedReductions[].type      string
        payload.cost.costCapture?               integer
        payload.cost.itemGroups?                any
        payload.cost.tax                        object
        payload.cost.tax.vat                    object
        payload.cost.tax.vat.amount             number
        payload.cost.withTax                    integer
        payload.cost.withoutTax                 integer
        payload.cost.withTaxWithMembershipDiscountWithoutServiceCosts?  integer
        payload.cost.withoutTaxWithMembershipDiscount?                  integer
        payload.customer?                       object
        payload.customer.id                     integer
        payload.customer.authentication?        any
        payload.customer.anonymisation?         any
        payload.customer.birthDate?             string|null
        payload.customer.createdAt              string
        payload.customer.customData?            any
        payload.customer.email?                 string
        payload.customer.firstName              string
        payload.customer.gender?                string|null
        payload.customer.groups?                any
        payload.customer.identities?            any
        payload.customer.ipAddress?             string|null
        payload.customer.lastName               string
        payload.customer.phone?                 string|null
        payload.customer.publicKey?             string|null
        payload.customer.referenceKey?          string|null
        payload.customer.status                 object
        payload.customer.status.isActive?           boolean
        payload.customer.status.isGuestCustomer     boolean
        payload.customer.status.isTestCustomer?     boolean
        payload.customer.title?                 string|null
        payload.customer.type?                  string
        payload.customer.updatedAt              string
        payload.customer.userAgent?             string|null
        payload.items                           array
        payload.items[]                         object
        payload.items[].id                      integer
        payload.loyaltyCard?                    object
        payload.loyaltyCard.cardNumber?         string
        payload.loyaltyCard.points              integer
        payload.loyaltyCard.provider            string
    """,
    inferred="""
        meta?                                   any
        payload.channel?                        any
        payload.cost.appliedFees[].invoiceTriggered?   boolean
        payload.cost.appliedFees[].refundTriggered?    boolean
        payload.cost.appliedReductions[].displayName?  string
        payload.cost.appliedReductions[].id?           string
        payload.cost.hasExternalPrices?         boolean
        payload.items[].availableQuantity?      integer
        payload.items[].basketItemKey?          any
        payload.items[].campaignKey?            any
        payload.items[].createdAt?              string
        payload.items[].currency?               string
        payload.items[].customData?             any
        payload.items[].deliveryForecast?       any
        payload.items[].isManuallyReturnedByCci?  any
        payload.items[].itemGroup?              any
        payload.items[].key?                    string
        payload.items[].lowestPriorPrice?       any
        payload.items[].merchant?               any
        payload.items[].packageId?              integer
        payload.items[].price                   object
        payload.items[].price.appliedReductions?  any
        payload.items[].price.overrideWithTax?    any
        payload.items[].price.overrideWithoutTax? any
        payload.items[].price.reference?        any
        payload.items[].price.tax               object
        payload.items[].price.tax.vat           object
        payload.items[].price.tax.vat.amount    number
        payload.items[].price.tax.vat.rate?     number
        payload.items[].price.undiscountedWithOutTax?  integer
        payload.items[].price.undiscountedWithTax?     integer
        payload.items[].price.withTax           integer
        payload.items[].price.withoutTax        integer
        payload.items[].product                 any
        payload.items[].promotion?              any
        payload.items[].promotions?             any
        payload.items[].reservationKey?         any
        payload.items[].status?                 string
        payload.items[].updatedAt?              string
        payload.items[].variant                 any
        payload.items[].warehouseId?            integer
        payload.membershipDiscount?             object
        payload.membershipDiscount.membershipCardId  integer
        payload.membershipDiscount.pointsUsed        integer
        payload.membershipDiscount.reductionValue    integer
        payload.membershipDiscount.tax?              integer
        payload.promotion?                      any
        payload.shopCountry?                    any
    """,
)

ASSUMED: Final[Mapping[str, AssumedShape]] = {
    "webhook:order-confirmed": _ORDER_CONFIRMED,
    "loyalty:points-rate": _assumed(documented="?currency string\n?type string"),
    "loyalty:balance": _assumed(documented="?cardKey string\n?type string"),
    "loyalty:validate": _assumed(inferred="cardKey string\ntype string"),
    "loyalty:verify": _assumed(inferred="cardKey string\nemail string\ntype string"),
    "loyalty:register": _assumed(
        inferred="""
            type                    string
            customer                object
            customer.id?            integer
            customer.referenceKey?  string|null
            customer.email?         string
            customer.phone?         string|null
            customer.firstName?     string
            customer.lastName?      string
        """
    ),
    "loyalty:collect": _assumed(
        inferred="""
            cardKey          string
            type             string
            points           integer
            orderId          integer
            transactionKey?  string
            currencyCode?    string
        """
    ),
    "loyalty:capture": _SPENDING,
    "loyalty:refund": _SPENDING,
}
"""By source; of one that has more parts, as `loyalty:capture:malformed`, the first two count."""


def assumed_of(source: str) -> AssumedShape | None:
    """What we assume of a source's requests, None when that is nothing."""
    return ASSUMED.get(":".join(source.split(":")[:2]))


def free_paths(source: str) -> frozenset[str]:
    """The paths of a source's requests where anything may stand, and below."""
    assumed = assumed_of(source) or {}
    return frozenset(path for path, field in assumed.items() if not field.types)


def differences(
    fields: Mapping[str, str], assumed: AssumedShape, *, is_cut: bool
) -> list[Difference]:
    """
    Where what was seen differs, by path; of what is unexpected or missing as a whole only that.

    What is missing of a shape that was cut is not told, as it may be behind the cut. Of a request
    whose body was not read only the query is compared.

    Args:
        fields, is_cut: as of `SeenShape`.
    """
    if fields.get("") == NOT_READ:
        fields, assumed = _of_query(fields), _of_query(assumed)
    found = [*_of_types(fields, assumed), *_unexpected(fields, assumed)]
    if not is_cut:
        found += _missing(fields, assumed)
    return sorted(found, key=lambda difference: difference.path)


def _of_query(by_path: Mapping[str, T]) -> dict[str, T]:
    return {path: each for path, each in by_path.items() if path.startswith("?")}


def _of_types(fields: Mapping[str, str], assumed: AssumedShape) -> Iterator[Difference]:
    for path, seen in fields.items():
        field = assumed.get(path)
        if field is None or not field.types:
            continue
        allowed = field.types | {"integer"} if "number" in field.types else field.types
        if not set(seen.split("|")) <= allowed:
            yield Difference(path, Deviation.OTHER_TYPE, seen, _written(field), field.basis)


def _unexpected(fields: Mapping[str, str], assumed: AssumedShape) -> Iterator[Difference]:
    for path, seen in fields.items():
        above = _parent(path)
        if path in assumed or (above is not None and not _is_closed(above, assumed)):
            continue
        yield Difference(path, Deviation.UNEXPECTED, seen, None, None)


def _is_closed(path: str, assumed: AssumedShape) -> bool:
    """Whether what may stand in `path` is assumed, so that anything else there is unexpected."""
    field = assumed.get(path)
    return field is not None and bool(field.types.intersection(_FORMS))


def _missing(fields: Mapping[str, str], assumed: AssumedShape) -> Iterator[Difference]:
    for path, field in assumed.items():
        if field.is_optional or path in fields:
            continue
        above = _parent(path)
        if above is None or "object" in fields.get(above, "").split("|"):
            yield Difference(path, Deviation.MISSING, None, _written(field), field.basis)


def _parent(path: str) -> str | None:
    """The path that `path` stands in, None for the document's own members."""
    if path.endswith("[]"):
        return path.removesuffix("[]")
    return path.rpartition(".")[0] or None


def _written(field: AssumedField) -> str:
    return "|".join(sorted(field.types)) or _ANYTHING
