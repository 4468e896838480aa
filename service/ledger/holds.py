"""Holds: what captures still lower balances by, and how Splio's balance takes their place."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from service.domain.checkout import KnownBalance, Reading
from service.domain.effects import EffectKey, Kind
from service.domain.errors import NotFoundError, WrongStateError
from service.domain.ledger import Page
from service.ledger.database import Connection, KeyStatement, Query, mappings
from service.ledger.outbox import note_outcomes
from service.ledger.rows import change_one, read_standings, void_followers
from service.ledger.transaction import Tx

_NEVER_ASKED: Final = (None, 0, 0)
_MASK: Final = "'…' || substr(card, length(card) - 3)"  # P7: no card number in a list


class Hold(NamedTuple):
    """A row of `holds`, as read inside the writer's transaction."""

    id: int
    effect_key: EffectKey
    program: str
    transaction_key: str
    order_key: str
    card: str
    currency: str | None
    amount: int
    refunded: int
    points: int
    given_back: int
    shrunk: int
    shown: int
    revision: int
    debits: str
    received_at: int
    ended_at: int | None
    ended_by: str | None

    @property
    def debit_keys(self) -> list[EffectKey]:
        """The debits of the last revision, in their order."""
        return [EffectKey(key) for key in orjson.loads(self.debits)]

    @property
    def held(self) -> int:
        """What it lowers the balance by while it is open."""
        return self.points - self.shrunk - self.shown

    def share(self, amount: int) -> int:
        """
        The points that a refund of `amount` gives back, whatever a point is worth by now.

        Refunds in parts give back what one of their sum would, which is rounded to the nearest.
        """
        refunded = self.refunded + amount
        shared = (2 * self.points * refunded + self.amount) // (2 * self.amount)
        return max(shared - self.given_back, 0)

    def refund(self, amount: int, points: int, *, is_unsent: bool) -> "Hold":
        """With so much more given back; `is_unsent`: the points need not be taken at Splio."""
        return self._replace(
            refunded=self.refunded + amount,
            given_back=self.given_back + points,
            shrunk=self.shrunk + points if is_unsent else self.shrunk,
        )


# Guarantees: what it reads cannot change before the transaction ends.
_HOLDS_BY_KEY: Final = Query(
    Hold._fields, "FROM holds WHERE effect_key IN (:keys)", locked="effect_key"
)
_HOLDS_BY_ORDER: Final = Query(
    Hold._fields, "FROM holds WHERE order_key IN (:keys)", locked="effect_key"
)
_OPEN_HOLDS: Final = Query(
    Hold._fields,
    "FROM holds INDEXED BY holds_open WHERE ended_at IS NULL AND card IN (:keys)",
    locked="effect_key",
)
# Guarantees: only from what was read.
_CHANGE: Final = (
    "UPDATE holds SET refunded = ?, given_back = ?, shrunk = ?, shown = ?, revision = ?, "
    "debits = ?, ended_at = ?, ended_by = ? WHERE id = ?"
)
# A debit that Splio's balance may show, or may not: it was sent, perhaps by a ledger that is gone,
# and no balance is known to do so.
_UNSEEN: Final = (
    "seen_at IS NULL AND (absence_counts_from IS NOT NULL "
    "OR (attempt > 0 AND state IN ('attempting', 'in_doubt', 'applied')))"
)
_READ_UNSEEN: Final = Query(
    ("effect_key", "points"),
    f"FROM effects WHERE {_UNSEEN} AND effect_key IN (:keys)",
    locked="effect_key",
)
# What was settled longer ago than Splio may take to show it, its balance shows, or never will: also
# where that cannot be seen.
_READ_UNDER_WAY: Final = Query(
    ("effect_key",),
    f"FROM effects WHERE {_UNSEEN} AND (settled_at IS NULL OR settled_at >= ?) "
    "AND effect_key IN (:keys)",
    locked="effect_key",
)
# Guarantees: a debit is counted as shown once.
_MARK_SHOWN: Final = KeyStatement(
    "UPDATE effects SET seen_at = ? WHERE seen_at IS NULL AND effect_key IN (:keys)"
)
# Guarantees: an older balance never takes the place of a newer one. Whatever the clocks of two
# processes say, one that shows a debit for the first time is newer than all before it, and the
# generation keeps those away that were asked for before and come after.
_WRITE_BALANCE: Final = (
    "INSERT INTO balances (card, points, asked_at, generation) VALUES (?1, ?2, ?3, ?4) "
    "ON CONFLICT (card) DO UPDATE SET points = excluded.points, asked_at = excluded.asked_at, "
    "generation = balances.generation + ?4 WHERE ?4 = 1 "
    "OR (balances.asked_at < excluded.asked_at AND balances.generation = ?5)"
)
# Asked at no time, it is answered to nobody; `asked_at` is when it was forgotten, below zero. For
# its generation it is kept as long as any other.
_FORGET_BALANCE: Final = (
    "INSERT INTO balances (card, points, asked_at, generation) VALUES (?1, NULL, -?2, 1) "
    "ON CONFLICT (card) DO UPDATE SET points = NULL, asked_at = excluded.asked_at, "
    "generation = balances.generation + 1"
)
_READ_BALANCE: Final = "SELECT points, asked_at FROM balances WHERE card = ?"
_READ_GENERATION: Final = Query(
    ("generation",), "FROM balances WHERE card IN (:keys)", locked="card"
)
_READ_BALANCES: Final = Query(
    ("card", "points", "asked_at", "generation"), "FROM balances WHERE card IN (:keys)"
)
_READ_HELD: Final = Query(
    ("card", "points - shrunk - shown", "debits"),
    "FROM holds INDEXED BY holds_open WHERE ended_at IS NULL AND card IN (:keys)",
)
_READ_SENT: Final = KeyStatement(
    f"SELECT effect_key FROM effects WHERE {_UNSEEN} AND effect_key IN (:keys)"
)
_READ_UNSETTLED_CARDS: Final = (
    "SELECT DISTINCT card FROM holds INDEXED BY holds_open "
    "WHERE ended_at IS NULL AND revision > 0 AND card > ? ORDER BY card LIMIT ?"
)
# In two halves, as the sum of a few mistaken amounts is more than SQLite's integers hold.
_HALF_BITS: Final = 32
_COUNT_OPEN: Final = (
    f"SELECT count(*), coalesce(sum((points - shrunk - shown) >> {_HALF_BITS}), 0), "
    f"coalesce(sum((points - shrunk - shown) & {2**_HALF_BITS - 1}), 0), min(received_at) "
    "FROM holds INDEXED BY holds_open WHERE ended_at IS NULL"
)
_VOID: Final = KeyStatement(
    "UPDATE effects SET state = 'void', settled_at = ?, reason = ? "
    "WHERE state IN ('due', 'blocked', 'held') AND effect_key IN (:keys) RETURNING effect_key"
)
_READ_STATES: Final = KeyStatement(
    "SELECT effect_key, state, points, seen_at, absence_counts_from FROM effects "
    "WHERE effect_key IN (:keys)"
)
_COLUMNS: Final = (
    f"effect_key, program, transaction_key, order_key AS order_id, {_MASK} AS card, currency, "
    "points, given_back, shrunk, shown, points - shrunk - shown AS held, received_at, ended_at, "
    "ended_by"
)
_READ_ONE: Final = (
    f"SELECT {_COLUMNS.replace(_MASK, 'card')}, debits FROM holds WHERE effect_key = ?"
)
_READ_REFUNDS: Final = (
    "SELECT effect_key, state, reason, points, settled_at FROM effects INDEXED BY effects_of_calls "
    "WHERE kind IN ('capture', 'debit', 'refund', 'member') AND order_key = ? AND kind = 'refund' "
    "ORDER BY effect_key"
)


def read_holds(tx: Tx, keys: Sequence[str]) -> list[Hold]:
    """The holds of these captures."""
    return [Hold(*row) for row in _HOLDS_BY_KEY.rows_for(tx.connection, keys)]


def holds_of_order(tx: Tx, order_key: str) -> list[Hold]:
    """The holds of one order, the oldest first."""
    rows = _HOLDS_BY_ORDER.rows_for(tx.connection, [order_key])
    return sorted(Hold(*row) for row in rows)


def open_holds(tx: Tx, card: str) -> list[Hold]:
    """The holds that lower the balance of this card."""
    return [Hold(*row) for row in _OPEN_HOLDS.rows_for(tx.connection, [card])]


def change(tx: Tx, hold: Hold, *, ended_by: str | None = None) -> None:
    """Write a hold that was changed; it ends when nothing is held any more, or by a person."""
    ended_at = hold.ended_at
    if ended_at is None and (hold.held <= 0 or ended_by is not None):
        ended_at = tx.now_ms
    change_one(
        tx.connection,
        _CHANGE,
        (
            hold.refunded,
            hold.given_back,
            hold.shrunk,
            hold.shown,
            hold.revision,
            hold.debits,
            ended_at,
            hold.ended_by or ended_by,
            hold.id,
        ),
    )


def void_debits(tx: Tx, keys: Sequence[EffectKey], *, reason: str) -> list[str]:
    """
    Give debits up that are not under way; returns which. A refund that waits for one is held.
    """
    voided = [row[0] for row in _VOID.raw_rows(tx.connection, keys, tx.now_ms, reason)]
    note_outcomes(tx, voided)
    void_followers(tx, voided)
    return voided


def is_over_balance(tx: Tx, card: str, points: int, *, known_for_ms: int) -> bool:
    """Whether more would be held of the card than Splio said, not long ago, that it has."""
    row = tx.connection.execute(_READ_BALANCE, (card,)).fetchone()
    if row is None or row[1] < tx.now_ms - known_for_ms:
        return False
    held = sum(hold.held for hold in open_holds(tx, card))
    return held + points > (row[0] or 0)


def read_known_balance(connection: Connection, card: str) -> KnownBalance:
    """See the port."""
    return read_known_balances(connection, [card])[card]


def read_known_balances(connection: Connection, cards: Sequence[str]) -> Mapping[str, KnownBalance]:
    """What is known of each of these cards."""
    told = {row[0]: row[1:] for row in _READ_BALANCES.rows_for(connection, cards)}
    held = dict.fromkeys(cards, 0)
    card_of: dict[EffectKey, str] = {}
    for card, points, debits in _READ_HELD.rows_for(connection, cards):
        held[card] += points
        card_of.update(dict.fromkeys(orjson.loads(debits), card))
    unseen: dict[str, list[EffectKey]] = {}
    for (key,) in _READ_SENT.raw_rows(connection, list(card_of)):
        unseen.setdefault(card_of[key], []).append(EffectKey(key))
    return {
        card: KnownBalance(
            points,
            at if at > 0 else None,
            held[card],
            tuple(unseen.get(card, ())),
            generation,
        )
        for card in cards
        for points, at, generation in (told.get(card, _NEVER_ASKED),)
    }


def write_balance(tx: Tx, reading: Reading) -> KnownBalance | None:
    """See the port."""
    holds = open_holds(tx, reading.card)
    keys = [key for hold in holds for key in hold.debit_keys]
    unseen = dict(_READ_UNSEEN.rows_for(tx.connection, keys)) if keys else {}
    generations = _READ_GENERATION.rows_for(tx.connection, [reading.card])
    generation = generations[0][0] if generations else 0
    if not reading.considered.issuperset(unseen) or reading.generation != generation:
        return None
    shown = [key for key in unseen if key in reading.shown]
    for hold in holds:
        taken = sum(unseen[key] for key in hold.debit_keys if key in shown)
        if taken:
            change(tx, hold._replace(shown=hold.shown + taken))
    _MARK_SHOWN.run(tx.connection, shown, tx.now_ms)
    tx.connection.execute(
        _WRITE_BALANCE,
        (reading.card, reading.points, reading.asked_at_ms, int(bool(shown)), generation),
    )
    return read_known_balance(tx.connection, reading.card)


def read_unsettled_cards(connection: Connection, limit: int, after: str | None) -> list[str]:
    """See the port."""
    rows = connection.execute(_READ_UNSETTLED_CARDS, (after or "", limit)).fetchall()
    return [card for (card,) in rows]


def count_open(connection: Connection) -> tuple[int, int, int | None]:
    """How many holds are open, their points, and when the oldest capture came."""
    count, upper, lower, oldest = connection.execute(_COUNT_OPEN).fetchone()
    return count, (int(upper) << _HALF_BITS) + int(lower), oldest


def list_holds(connection: Connection, *, only_open: bool, limit: int, after: str | None) -> Page:
    """Holds by key, their cards masked."""
    condition = "AND ended_at IS NULL" if only_open else ""
    cursor = connection.execute(
        f"SELECT {_COLUMNS} FROM holds WHERE effect_key > ? {condition} "
        "ORDER BY effect_key LIMIT ?",
        (after or "", limit + 1),
    )
    rows = mappings(cursor)
    items = rows[:limit]
    return Page(items, items[-1]["effect_key"] if items and len(rows) > limit else None)


def show_hold(connection: Connection, key: EffectKey) -> Mapping[str, Any]:
    """One hold with its card, its debits and the refunds of its order. Raises: NotFoundError."""
    rows = mappings(connection.execute(_READ_ONE, (key,)))
    if not rows:
        raise NotFoundError("no_such_hold", key)
    row = rows[0]
    keys = orjson.loads(row.pop("debits"))
    debits = [
        {"effect_key": debit, "state": state, "points": points, "seen_at": seen_at}
        for debit, state, points, seen_at, _ in _READ_STATES.raw_rows(connection, keys)
    ]
    cursor = connection.execute(_READ_REFUNDS, (row["order_id"],))
    return {
        **row,
        "debits": sorted(debits, key=lambda debit: keys.index(debit["effect_key"])),
        "refunds": mappings(cursor),
    }


def end_hold(tx: Tx, key: EffectKey, *, by: str) -> None:
    """
    See the port. What Splio was last known to say of the card is forgotten: a new balance takes
    the hold's place.
    """
    holds = read_holds(tx, [key])
    if not holds:
        raise NotFoundError("no_such_hold", key)
    (hold,) = holds
    if hold.ended_at is not None:
        raise WrongStateError("hold_ended", f"{key} has ended already")
    keys = hold.debit_keys
    read_standings(tx, keys)  # locked, so that none is claimed from here on
    visible_ms = tx.now_ms - round(tx.config.visible_after_s[Kind.DEBIT] * 1000)
    if keys and (unseen := _READ_UNDER_WAY.rows_for(tx.connection, keys, visible_ms)):
        under_way = ", ".join(sorted(name for (name,) in unseen))
        raise WrongStateError("debits_under_way", f"not known yet whether Splio shows {under_way}")
    void_debits(tx, keys, reason="hold_ended")
    _MARK_SHOWN.run(tx.connection, keys, tx.now_ms)  # no balance is asked for them any more
    change(tx, hold, ended_by=by)
    tx.connection.execute(_FORGET_BALANCE, (hold.card, tx.now_ms))
