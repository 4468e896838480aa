"""What the sandbox does, and how sure it is that Splio does the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Ground = Literal["documented", "inferred", "invented"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """
    One thing the sandbox does.

    Attributes:
        ground: `documented` by Splio; `inferred` from what is documented; `invented` where
            Splio says nothing.
    """

    topic: str
    ground: Ground
    text: str


BEHAVIOURS = (
    Behaviour(
        "authentication",
        "documented",
        "`POST /authenticate` with `api_key`; both errors; Bearer tokens with `exp`; "
        "401 as the text `Authentication failed.`",
    ),
    Behaviour(
        "tokens",
        "invented",
        "signed with HS256 (Splio: RS256), valid for one hour (Splio's pages say 1 or 24), "
        "still good after a restart; the same answer for a wrong, an old and no token",
    ),
    Behaviour(
        "rate limits",
        "documented",
        "20 requests/s contacts, 20 orders, products and stores, 10 everything else, per "
        "client address; 429 with its body, headers `rateLimit-*` and `x-rateLimit-*-minute`",
    ),
    Behaviour(
        "rate limits: window",
        "inferred",
        "any one second, strictly; refused requests do not count; per category, not per "
        "path; the headers are on every answer, `rateLimit-reset` in whole seconds",
    ),
    Behaviour(
        "errors in general",
        "documented",
        "invalid JSON, wrong method as text, the error shapes of each operation",
    ),
    Behaviour(
        "errors in general",
        "invented",
        "404 for an unknown path, 413 over 1 MiB, `is_blank` for a missing field; a body "
        "that is JSON but no object is answered as invalid JSON",
    ),
    Behaviour(
        "dates",
        "inferred",
        "`YYYY-MM-DD HH:MM:SS` with padded hours (Splio's own file refuses 01 to 09: setting "
        "`hours`); the universe's time zone is UTC",
    ),
    Behaviour(
        "contacts",
        "documented",
        "create, read (`?key=internal_id`), change; the errors for an existing contact, a "
        "missing unique key, an e-mail, custom fields, an unknown contact on change, a "
        "changed unique key; `lists` in a change replaces all",
    ),
    Behaviour(
        "contacts",
        "inferred",
        "404 on read as on change; unique keys are compared exactly, also e-mail addresses",
    ),
    Behaviour(
        "custom fields",
        "documented",
        "must exist before a value is sent; `POST /data/fields` makes one",
    ),
    Behaviour(
        "custom fields",
        "invented",
        "there from the start: contacts 0 `scayle_customer_id` and 5 `last_visit` (date), "
        "orders 0 `scayle_public_key`, and the unique key's; an unknown name is refused in "
        "the words of an unknown id",
    ),
    Behaviour(
        "products and stores",
        "documented",
        "create, read, 404; `external_id` is unique",
    ),
    Behaviour(
        "products and stores",
        "inferred",
        "a second creation is refused in the words of an order's: `Product with external_id "
        "... already exists.`",
    ),
    Behaviour(
        "orders",
        "documented",
        "create with its seven errors, read (v2 with status), change (no card; an empty list "
        "of products deletes the lines), delete, lists, carts by `completed: false`; contact, "
        "store and products must exist before",
    ),
    Behaviour(
        "orders",
        "inferred",
        "a refused order leaves nothing; checked in the order types, required fields, date, "
        "external id, store, contact, products, custom fields; one missing product is named "
        "at a time; a change to `completed: true` makes an order of a cart",
    ),
    Behaviour(
        "orders",
        "invented",
        "an unknown card is kept as sent; without a card `loyalty` is null; a cart reads with "
        "`ordered_at` and `status` null, an order with status `paid`; the filter `fields` of "
        "lists is refused; orders move no points",
    ),
    Behaviour(
        "programs",
        "invented",
        "1 runs and generates codes, 2 runs and does not, 3 is a draft; no holding period",
    ),
    Behaviour(
        "members",
        "documented",
        "create, read, balance, with the errors for contact, program, program start and card "
        "code; generated card codes are EAN-13; automatic subscription",
    ),
    Behaviour(
        "members",
        "invented",
        "every good EAN-13 number is a member of program 1 (setting `members`); a card code "
        "in use is refused in the shape of a missing one; automatic subscription acts at once",
    ),
    Behaviour(
        "credit",
        "documented",
        "202 without a body; wrong types, one entry per field; date before the program; "
        "unknown card",
    ),
    Behaviour(
        "credit",
        "invented",
        "a repeated `idempotency_key` is dropped for ever, over all cards, and answered 202 "
        "(setting `repeated_key`: `book` books it again); negative quantities are booked; "
        "`is_final` changes nothing",
    ),
    Behaviour(
        "points ledger",
        "documented",
        "`GET /loyalty/points`: filters, cursors, order, sort, both defaults",
    ),
    Behaviour(
        "points ledger",
        "inferred",
        "`context` comes back as `reason.message`, after `points_visible_after_s`; nothing "
        "matches the default event type `event`; a cursor of another sort is refused",
    ),
    Behaviour(
        "points ledger",
        "invented",
        "`count_element` counts the page; `next` and `previous` are empty; the filters on "
        "tier, rule, program name, status and validity are refused; points never expire",
    ),
    Behaviour(
        "not there yet",
        "documented",
        "bulk contacts, deleting contacts, changing members, products and stores, tiers, "
        "rules, rewards, blacklists, interactions, messages",
    ),
)


def behaviours_as_markdown() -> str:
    """`BEHAVIOURS` as a Markdown table."""
    rows = [f"| {each.topic} | {each.ground} | {each.text} |" for each in BEHAVIOURS]
    return "\n".join(["| topic | ground | what the sandbox does |", "|---|---|---|", *rows])
