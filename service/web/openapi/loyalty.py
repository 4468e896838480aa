"""The loyalty doors in the OpenAPI document: what is taken and answered, and what is inferred."""

from collections.abc import Mapping
from typing import Any, Final

from service.domain.checkout import CallOperation
from service.web.loyalty_methods import METHODS
from service.web.openapi.parts import Document, json_response, object_of, problems

LOYALTY_SCHEMES: Final[Document] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Also without the scheme."},
    "accessToken": {"type": "apiKey", "in": "header", "name": "X-Access-Token"},
}
_SECURITY: Final[list[Document]] = [{"bearer": []}, {"accessToken": []}]

# A number stands for its digits wherever text is asked for. Fields that nobody knows are passed
# over, and what is null or blank counts as not given.
_PROGRAM: Final[Document] = {
    "type": "string",
    "pattern": "^[!-~]{1,60}$",
    "description": "SCAYLE's key of the programme; not needed where there is but one.",
    "examples": ["splio_club"],
}
_CARD: Final[Document] = {
    "type": "string",
    "pattern": "^[0-9A-Za-z]{1,64}$",
    "description": "The card's number; also taken as cardNumber, loyaltyNumber or number.",
    "examples": ["2171707962088"],
}
_CURRENCY: Final[Document] = {
    "type": "string",
    "pattern": "^[A-Za-z]{3}$",
    "description": "ISO 4217.",
    "examples": ["EUR"],
}
_EMAIL: Final[Document] = {
    "type": "string",
    "pattern": "^[!-~]{1,160}@[!-~]{1,100}$",
    "examples": ["camille@example.com"],
}
_ORDER: Final[Document] = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": 2**53 - 1},
        {"type": "string", "pattern": "^[0-9A-Za-z][0-9A-Za-z_~-]{0,49}$"},
    ],
    "description": "The order's id, by which its webhook knows it.",
    "examples": [2345388],
}
_KEY: Final[Document] = {
    "type": "string",
    "pattern": "^[!-~]{1,200}$",
    "description": "Names the call: the same key again is answered the same.",
    "examples": ["4bd1f0a97c2e5518d3aa06e9b7c1"],
}
_AMOUNT: Final[Document] = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": 2**53 - 1},
        {"type": "string", "pattern": r"^[1-9][0-9]{0,17}(\.0{1,9})?$"},
    ],
    "description": "Points or money in the smallest unit, as RELAY_LOYALTY_AMOUNT_UNIT says.",
    "examples": [1000],
}
_TEXT: Final[Document] = {"type": "string", "pattern": "^[!-~]{1,100}$"}

_CARD_FIELDS: Final = {"cardKey": _CARD, "type": _PROGRAM}
_SPENDING: Final = {
    "amount": _AMOUNT,
    "cardKey": _CARD,
    "type": _PROGRAM,
    "orderId": _ORDER,
    "transactionKey": _KEY,
}
_CUSTOMER: Final = {
    "type": _PROGRAM,
    "email": _EMAIL,
}
_NOTHING: Final = object_of({})
_VALID: Final = object_of({"valid": {"type": "boolean"}})
_UNKNOWN_PROGRAM: Final = {404: "The programme is not known (RELAY_LOYALTY_PROGRAMS)."}
_BODIES: Final = {
    413: "The body is too large.",
    415: "The body is encoded, or a form.",
    417: "An expectation other than 100-continue.",
}


def loyalty_paths(*, invalid_status: int = 200) -> Document:
    """The paths below `/loyalty/`."""
    return {
        f"/loyalty/{operation}": {
            method.lower(): _operation(operation, method, invalid_status) for method in methods
        }
        for operation, methods in METHODS.items()
    }


def _operation(operation: CallOperation, method: str, invalid_status: int) -> Document:
    document = _DESCRIBED[operation]
    name = operation.value.replace("-", " ").title().replace(" ", "")
    described: Document = {
        "operationId": f"{method.lower()}{name}",
        "summary": document["summary"],
        "description": document["description"],
        "security": _SECURITY,
    }
    fields: Mapping[str, Document] = document["fields"]
    required = [field for field in fields if field not in document.get("optional", ())]
    if method == "GET":
        described["parameters"] = [
            {"name": field, "in": "query", "required": field in required, "schema": schema}
            for field, schema in fields.items()
        ]
    else:
        described["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": required,
                        "properties": dict(fields),
                        "additionalProperties": True,
                    }
                }
            },
        }
    answers: dict[str, Document] = dict(document["answers"])
    refused: dict[int, str] = {
        400: "The call cannot be understood; the problem names the field.",
        401: "The token is missing or wrong.",
        429: "Too many wrong tokens from this address.",
        503: "It cannot be answered now; the same call may be sent again.",
        **_BODIES,
        **_UNKNOWN_PROGRAM,
        **document.get("refused", {}),
    }
    if operation in {CallOperation.VALIDATE, CallOperation.VERIFY} and invalid_status != _OK:
        refused.pop(invalid_status, None)
        answers[str(invalid_status)] = json_response("No.", _VALID)
    described["responses"] = {**problems(refused), **answers}
    return described


_OK: Final = 200

_DESCRIBED: Final[Mapping[CallOperation, Mapping[str, Any]]] = {
    CallOperation.POINTS_RATE: {
        "summary": "What a point is worth.",
        "description": (
            "Points times the factor is money in major units. The name of the answer's field is "
            "not documented: it stands under every name of RELAY_LOYALTY_RATE_FIELDS."
        ),
        "fields": {"currency": _CURRENCY, "type": _PROGRAM},
        "answers": {
            "200": json_response(
                "The factor.",
                {
                    "type": "object",
                    "minProperties": 1,
                    "additionalProperties": {"type": "number", "exclusiveMinimum": 0},
                },
            )
        },
        "refused": {404: "The programme, or a rate of this currency, is not known."},
    },
    CallOperation.BALANCE: {
        "summary": "Points that a card can spend.",
        "description": "Usable points at Splio less what captures hold, never negative.",
        "fields": _CARD_FIELDS,
        "answers": {
            "200": json_response(
                "The balance.", object_of({"balance": {"type": "integer", "minimum": 0}})
            )
        },
        "refused": {
            404: "Splio does not know the card, or we do not know the programme.",
            503: "Splio cannot be asked now and no value is known that is young enough.",
        },
    },
    CallOperation.VALIDATE: {
        "summary": "Whether a card is good.",
        "description": "It has the form asked for, exists, is of the programme and not expired.",
        "fields": _CARD_FIELDS,
        "answers": {"200": json_response("Whether it is.", _VALID)},
    },
    CallOperation.VERIFY: {
        "summary": "Whether a card is that of a customer.",
        "description": "The card is good and its member has this e-mail address, case ignored.",
        "fields": {**_CARD_FIELDS, "email": _EMAIL},
        "answers": {"200": json_response("Whether it is.", _VALID)},
    },
    CallOperation.REGISTER: {
        "summary": "A card for a customer.",
        "description": (
            "SCAYLE's customer fields, beside `type` or in `customer`. The same customer again "
            "gets the same card."
        ),
        "fields": {**_CUSTOMER, "firstName": _TEXT, "lastName": _TEXT},
        "optional": ("firstName", "lastName"),
        "answers": {
            status: json_response(description, object_of({"cardKey": _TEXT, "cardNumber": _TEXT}))
            for status, description in (
                ("200", "The card that the customer has."),
                ("201", "A new card."),
            )
        },
        "refused": {422: "Splio refuses the customer or the membership."},
    },
    CallOperation.COLLECT: {
        "summary": "Points earned by an order.",
        "description": (
            "Booked where RELAY_POINTS_FROM is `collect`, else counted. The webhook of the order "
            "names the same booking, so it is booked once."
        ),
        "fields": {"points": _AMOUNT, **_CARD_FIELDS, "orderId": _ORDER},
        "answers": {"200": json_response("Taken, or counted.", _NOTHING)},
        "refused": {
            409: "The order's points are known otherwise.",
            422: "No order id, or no whole number of points above zero.",
        },
    },
    CallOperation.CAPTURE: {
        "summary": "Points spent for an order.",
        "description": (
            "Taken also beyond the balance, as the order is confirmed. Durable when answered 200."
        ),
        "fields": {**_SPENDING, "currencyCode": _CURRENCY},
        "optional": ("currencyCode",),
        "answers": {"200": json_response("Taken.", _NOTHING)},
        "refused": {
            409: "The key is known with another amount or card.",
            422: "The amount is no whole number above zero.",
        },
    },
    CallOperation.REFUND: {
        "summary": "Captured points given back, in part or whole.",
        "description": (
            "Its capture is the one with the same transactionKey, else one of that order and card. "
            "Durable when answered 200."
        ),
        "fields": {**_SPENDING, "currencyCode": _CURRENCY},
        "optional": ("currencyCode",),
        "answers": {"200": json_response("Taken.", _NOTHING)},
        "refused": {
            409: "The key is known otherwise, or more would be given back than was captured.",
            422: "The amount is no whole number above zero.",
        },
    },
}
