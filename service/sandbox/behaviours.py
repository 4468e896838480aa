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
        "1 runs and generates codes, 2 runs and does not, 3 is a draft; all show the setting "
        "`holding_days` as holding period of NQ points, 0 unless changed",
    ),
    Behaviour(
        "members",
        "documented",
        "create, read, balance, with the errors for contact, program, program start and card "
        "code; generated card codes are EAN-13; automatic subscription; change (a contact only "
        "where there is none, another owner and a program refused), opt-out; the cards of a "
        "contact stand in `GET /data/contacts/{id}`, `loyalty`",
    ),
    Behaviour(
        "members",
        "inferred",
        "opt-out sets `card_expire_at` to now; a second one leaves it; the body of an opt-out "
        "is not looked at; any `program_id` in a change is refused, also the same",
    ),
    Behaviour(
        "members",
        "invented",
        "every good EAN-13 number is a member of program 1 (setting `members`); a card code "
        "in use is refused in the shape of a missing one; automatic subscription acts at once; "
        "a card without an owner stays without one when an order names it; another joining date "
        "moves no points; an expired card is still read and credited",
    ),
    Behaviour(
        "balance",
        "documented",
        "`pending` and `remaining` with `total` and `next_movement`; `with_redeemed` adds "
        "`redeemed`",
    ),
    Behaviour(
        "balance",
        "inferred",
        "`remaining` is usable, `pending` in the holding period, its next movement the release; "
        "a member's `nq_point` is what is usable",
    ),
    Behaviour(
        "balance",
        "invented",
        "it adds up what the ledger shows, so it lags behind credits and grants; `redeemed` has "
        "the same fields and holds the NQ points that grants took; negative credits and Q "
        "points are not held back",
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
        "tier, rule, program name, status and validity are refused; points never expire; "
        "`points_remaining` of a credit is not lowered by what was spent",
    ),
    Behaviour(
        "rewards",
        "documented",
        "create with its errors (number, stock and generation among them), read, list with "
        "filters and cursors; price `nqp_value`, validity, stock; the id is unique",
    ),
    Behaviour(
        "rewards",
        "inferred",
        "`type` is not asked for; `max_attribution_count` is taken as number and as text; money "
        "without details is `is_blank`; a definition has no status",
    ),
    Behaviour(
        "rewards",
        "invented",
        "there from the start, unlimited and without end: `PT1`, `PT10`, `PT100` and `PT1000` "
        "for 1, 10, 100 and 1000 NQ points (setting `rewards`); `stock` is the number left, 0 "
        "without limit; an interval count of 0 is no end; filters on custom fields are refused",
    ),
    Behaviour(
        "grants",
        "documented",
        "`quantity`, `grant_date`, `burned_date`, `validity_start`, `validity_end`, `store_id`, "
        "`attribution_ids`, `reason_msg`; 200 with `uuid` and codes; the errors for types, "
        "dates, reward, card, stock, a reward that has not started, a use outside the grant's "
        "dates, a store without use, an unknown store",
    ),
    Behaviour(
        "grants",
        "inferred",
        "points go at the grant, not at the use; the reward's own validity goes before the "
        "grant's; checked in the order types, dates, card code, store without use, reward, "
        "number, card, validity, use, store, key, codes, stock, points; a code in use is "
        "refused in the words of the bulk grant; use in the very second of the grant is allowed",
    ),
    Behaviour(
        "grants",
        "invented",
        "too few points: 400 in shape 3, `nq_points`, `not enough points` (setting "
        "`too_few_points`: `listed` is shape 1, `stock` the words of an empty stock, `grant` "
        "grants all the same); a repeated `idempotency_key` is dropped for ever, over all cards "
        "and rewards, and answered 200 with an empty list (setting `repeated_grant_key`: "
        "`refuse` answers 400, `book` grants again); a refused grant leaves its key free; a "
        "card that had not joined or has expired at `grant_date` is unknown; 1 to 10,000 at a "
        "time; own codes must be as many as `quantity`; a reward that has ended is refused in "
        "the words of one that has not started",
    ),
    Behaviour(
        "grants in the ledger",
        "inferred",
        "one entry `reward_attribution` a grant, `reason_msg` as `reason.message`",
    ),
    Behaviour(
        "grants in the ledger",
        "invented",
        "all three amounts are negative, none of a free reward; ledger, balance and lists of "
        "attributions show a grant after `grants_visible_after_s`; the next grant counts it, "
        "and its codes can be read and used, at once",
    ),
    Behaviour(
        "attributions",
        "documented",
        "of a contact (filters on card and program, cursors, `with_custom_fields`), of a "
        "reward, one (with other names, `available`); use (`burn`) once, with the errors for "
        "attribution, store, second use, card, other card, dates",
    ),
    Behaviour(
        "attributions",
        "inferred",
        "a card must be a member at `burned_date`: joined and not expired; wrong types and "
        "forms of a use are refused as those of a grant; 404 for an unknown contact as on read",
    ),
    Behaviour(
        "attributions",
        "invented",
        "statuses `valid`, `burned`, `expired`, and `pending` in the reward's holding period, "
        "which does not hinder a use; the cards that are the contact's now; a use without "
        "`card_code` is allowed, `contact_id` is not looked at; the answer to a use shows its "
        "own `reason_msg`, the lists keep the grant's; a use moves no points; custom fields "
        "stand in `custom_fields` of the element",
    ),
    Behaviour(
        "not there yet",
        "documented",
        "bulk contacts, deleting contacts, changing products, stores and rewards, members of a "
        "program, tiers, rules, codes in stock, eligibility, grants and uses in bulk, "
        "blacklists, interactions, messages",
    ),
)


def behaviours_as_markdown() -> str:
    """`BEHAVIOURS` as a Markdown table."""
    rows = [f"| {each.topic} | {each.ground} | {each.text} |" for each in BEHAVIOURS]
    return "\n".join(["| topic | ground | what the sandbox does |", "|---|---|---|", *rows])
