"""The ledger on PostgreSQL when its connection, its statements or its values fail it."""

import asyncio
import contextlib
import random
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest

from service.domain.effects import EffectKey, Kind, Lane, Outcome, State
from service.domain.errors import (
    LedgerUnavailableError,
    NotFoundError,
    PermanentError,
    WrongStateError,
)
from service.domain.ledger import (
    LookUp,
    LookUpVerdict,
    ReadyEffect,
    Settlement,
)
from service.domain.planning import Plan
from service.domain.ports import Step
from service.domain.records import Advance
from service.ledger import postgres_connection, recovery
from service.ledger.postgres_connection import LimitedConnection
from service.ledger.sql_ledger import SqlLedger
from tests.contract.ledger_fixture import (
    APPLIED,
    CREDITS_VISIBLE_AFTER_S,
    STREAM,
    Records,
    claim,
    dead_letter_plan,
    earn_key,
    order_and_earn,
    order_key,
    order_only,
    planned_effect,
    state_of,
)
from tests.harness.postgres_server import PostgresServer
from tests.integration.shared_ledger import (
    CommitHold,
    SharedHome,
    WriterBreaker,
    plan,
    plan_fresh,
    shared_home,
)


@pytest.fixture
def home(postgres_server: PostgresServer) -> Iterator[SharedHome]:
    with shared_home(postgres_server) as home:
        yield home


@pytest.fixture
def records() -> Records:
    return Records()


def follower(order_id: str) -> Plan:
    """A booking that waits for its order, without facts that both would write."""
    effect = replace(planned_effect(order_id, Kind.EARN), after=order_key(order_id))
    return Plan(order_id, (effect,), None)


# -- commits whose end is not known


@pytest.mark.parametrize("answered", [False, True])
async def test_a_connection_that_breaks_anywhere_in_a_batch_leaves_nothing_half_done(
    home: SharedHome, records: Records, monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    """P2, P3: whatever its caller was told, doing the same again ends right."""
    breaker = WriterBreaker(home, monkeypatch, answered=answered)
    async with home.open("one") as ledger:
        broken = True
        statement = 0
        while broken:
            broken = await one_life(ledger, records, home, breaker, statement)
            statement += 1
    assert statement >= 9


async def one_life(
    ledger: SqlLedger, records: Records, home: SharedHome, breaker: WriterBreaker, statement: int
) -> bool:
    """An order that is posted and a booking that is refused; whether anything broke."""
    number = f"n{statement}"
    broken = False
    planned = [records.planned(order_and_earn(number))]
    advance = [Advance(STREAM, records.next_offset - 1, records.next_offset)]
    breaker.at(statement)
    try:
        await ledger.record_plans(planned, advance)
    except LedgerUnavailableError:
        broken = True
        with contextlib.suppress(WrongStateError):  # it had been written
            await ledger.record_plans(planned, advance)
    assert (await ledger.positions([STREAM]))[STREAM] == records.next_offset
    due: list[ReadyEffect] = []
    for lane in (Lane.SALES, Lane.OTHER):
        due += await ledger.ready(lane, limit=9, due_before_ms=home.clock.now_ms() + 1)
    assert [effect.key for effect in due] == [order_key(number), earn_key(number)]
    for effect in due:
        breaker.at(statement)
        taken = None
        try:
            taken = await ledger.claim(effect, lease_s=30)
        except LedgerUnavailableError:
            broken = True
            # Claimed by one of the two, in any case.
            await ledger.claim(effect, lease_s=30)
            home.clock.advance(30)
            assert await ledger.expire_leases() == 1
            home.clock.advance(CREDITS_VISIBLE_AFTER_S)
        breaker.never()
        if taken is None:
            (doubt,) = await ledger.doubts(limit=9)
            await ledger.record_look_up(doubt, LookUp(LookUpVerdict.ABSENT))
            taken = await claim(ledger, effect)
        outcome = Outcome.APPLIED if effect is due[0] else Outcome.REJECTED
        breaker.at(statement)
        try:
            await ledger.settle(taken, Settlement(outcome, reason="x"))
        except LedgerUnavailableError:
            broken = True
            await ledger.settle(taken, Settlement(outcome, reason="x"))
        breaker.never()
        assert await state_of(ledger, effect.key) == outcome
    page = await ledger.list_dead_letters(limit=200)
    assert len([row for row in page.items if row["order_id"] == number]) == 1
    told = [entry.notice.effect_key for entry in await ledger.outbox(limit=500)]
    assert told.count(order_key(number)) == 1
    assert told.count(earn_key(number)) == 2  # its outcome and its dead letter
    return broken


async def test_a_transaction_that_is_gone_is_not_believed_to_be_committed(
    home: SharedHome, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P3: a new connection has nothing to commit, and says so in no error."""
    opened: list[LimitedConnection] = []
    connected = postgres_connection.connect

    def connect(address: str, *, name: str) -> LimitedConnection:
        opened.append(connected(address, name=name))
        return opened[-1]

    monkeypatch.setattr(postgres_connection, "connect", connect)
    lose = False

    def step(label: Step) -> None:
        nonlocal lose
        if lose and label is Step.LEDGER_BEFORE_COMMIT:
            lose = False
            opened[0].close()

    async with home.open("one", step=step) as ledger:
        lose = True
        with pytest.raises(LedgerUnavailableError):
            await plan(ledger, records, order_only("7"))
        assert (await ledger.list_effects()).items == []
        await plan(ledger, records, order_only("7"))
        assert await state_of(ledger, order_key("7")) == "due"


async def test_a_commit_that_is_carried_out_after_it_was_given_up_does_no_harm(
    private_postgres: PostgresServer, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P2: the server stands still with the commit before it, and goes on when it was repeated."""
    monkeypatch.setattr(LimitedConnection, "limit_s", 0.5)
    with shared_home(private_postgres) as home:
        hold = CommitHold()
        async with home.open("one", step=hold) as ledger:

            async def given_up(operation: Coroutine[Any, Any, object]) -> None:
                hold.arm()
                task = asyncio.create_task(operation)
                await hold.reached()
                private_postgres.freeze()
                hold.let_go()
                with pytest.raises(LedgerUnavailableError):
                    await task
                private_postgres.thaw()

            planned = [records.planned(order_only("7"))]
            advance = [Advance(STREAM, 0, 1)]
            await given_up(ledger.record_plans(planned, advance))
            # Told so, or planned: in both cases once.
            with contextlib.suppress(WrongStateError):
                await ledger.record_plans(planned, advance)
            assert (await ledger.positions([STREAM]))[STREAM] == 1
            (effect,) = await ledger.ready(
                Lane.SALES, limit=9, due_before_ms=home.clock.now_ms() + 1
            )
            await given_up(ledger.claim(effect, lease_s=30))
            taken = await ledger.claim(effect, lease_s=30)
            if taken is None:
                home.clock.advance(30)
                assert await ledger.expire_leases() == 1
                home.clock.advance(CREDITS_VISIBLE_AFTER_S)
                (doubt,) = await ledger.doubts(limit=9)
                await ledger.record_look_up(doubt, LookUp(LookUpVerdict.ABSENT))
                taken = await claim(ledger, effect)
            await given_up(ledger.settle(taken, APPLIED))
            await ledger.settle(taken, APPLIED)
            assert await state_of(ledger, effect.key) == "applied"
            assert len(await ledger.outbox(limit=9)) == 1
            shown = await ledger.show_effect(effect.key)
            assert [row["outcome"] for row in shown["attempts"]].count("applied") == 1


async def test_a_recovery_of_many_effects_ends_before_a_statement_is_given_up(
    home: SharedHome, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 200,000 open effects one statement for all took longer than the server lets it."""
    monkeypatch.setattr(recovery, "_BITE", 2)
    slow = (
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_sleep(1); RETURN NEW; END'; "
        "CREATE TRIGGER slow BEFORE UPDATE ON effects FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    async with home.open("one") as ledger:
        await plan(ledger, records, *(order_only(str(number)) for number in range(6)))
        home.execute(slow)
        assert (await ledger.recover({}, {})).effects_in_doubt == 6


async def test_a_ledger_that_is_migrated_under_a_service_goes_on_working(
    home: SharedHome, records: Records
) -> None:
    """What was prepared does not fit any more; the next try prepares it anew."""
    async with home.open("one") as ledger:
        for number in range(6):
            await ledger.settle(
                await claim(ledger, await plan_fresh(ledger, records, order_only(str(number)))),
                APPLIED,
            )
            await state_of(ledger, order_key("0"))
        home.execute("ALTER TABLE effects ALTER COLUMN was_in_doubt TYPE bigint")
        effect = await plan_fresh(ledger, records, order_only("7"))
        with pytest.raises(LedgerUnavailableError):
            await ledger.claim(effect, lease_s=30)
        await ledger.settle(await claim(ledger, effect), APPLIED)
        with pytest.raises(LedgerUnavailableError):
            await state_of(ledger, effect.key)
        assert await state_of(ledger, effect.key) == "applied"


# -- what the database cannot hold


@pytest.mark.parametrize("key", ["main:order:\0", "main:order:\ud800"])
async def test_what_cannot_be_stored_is_not_found_and_not_called_unavailable(
    home: SharedHome, key: str
) -> None:
    """A caller would ask for it again and again."""
    async with home.open("one") as ledger:
        for ask in (ledger.show_effect, ledger.show_order, ledger.doubt):
            with pytest.raises(NotFoundError, match="not_storable"):
                await ask(EffectKey(key))
        with pytest.raises(PermanentError, match="not_storable"):
            await ledger.release(EffectKey(key), by="anna")


async def test_a_key_too_long_for_an_index_is_not_tried_for_ever(
    home: SharedHome, records: Records
) -> None:
    """P3: the records behind it would wait as long."""
    noise = random.Random(1)
    name = "".join(chr(noise.randrange(0x4E00, 0x9FA5)) for _ in range(4_000))
    async with home.open("one") as ledger:
        with pytest.raises(PermanentError, match="not_storable"):
            await plan(ledger, records, order_only(name))
        await plan(ledger, records, order_only("7"))


# -- statements


_MANY = """
INSERT INTO effects (effect_key, kind, lane, order_key, fingerprint, state, due_at, event_id,
    traceparent, points, received_at, created_at, settled_at, seen_at, body_id, record_id)
SELECT 'main:order:x' || n, 'order', 'sales', 'x' || n, 'f1', 'applied', n, 'e', 't', 1, n, n, n,
    n, n, n FROM generate_series(1, 60000) AS n;
INSERT INTO bodies SELECT n, 'main:order:x' || n, '/p', '', NULL, NULL
    FROM generate_series(1, 60000) AS n;
INSERT INTO records SELECT n, 't', 0, n, NULL, '{}', '', n, 'e', '[]'
    FROM generate_series(1, 60000) AS n;
INSERT INTO dead_letters (dedupe_key, kind, event_id, reason, detail, record_id, at, last_seen_at)
    SELECT 'event:x' || n, 'event', 'e', 'r', '', n, n, n FROM generate_series(1, 60000) AS n;
"""


async def one_of_each(ledger: SqlLedger, records: Records, home: SharedHome, order: str) -> None:
    """What the ledger does all the time, on three effects."""
    results = await plan(
        ledger, records, order_and_earn(order), order_only(f"{order}r"), follower(f"{order}f")
    )
    await plan(ledger, records, order_only(order))
    await plan(ledger, records, dead_letter_plan(order))
    fresh = [effect for result in results for effect in result.fresh]
    outcomes = (Outcome.APPLIED, Outcome.IN_DOUBT, Outcome.REJECTED)
    for effect, outcome in zip(fresh, outcomes, strict=True):
        taken = await claim(ledger, effect)
        await ledger.settle(taken, Settlement(outcome, reason="x"))
    for lane in (Lane.SALES, Lane.OTHER):
        await ledger.ready(lane, limit=10, due_before_ms=home.clock.now_ms())
    await ledger.expire_leases()
    for doubt in await ledger.doubts(limit=64):
        await ledger.record_look_up(doubt, LookUp(LookUpVerdict.FOUND))
    await ledger.mark_seen([earn_key(order)], None)
    await ledger.remove_published([entry.id for entry in await ledger.outbox(limit=100)])
    await ledger.show_order(order)
    await ledger.list_effects(states=[State.HELD, State.DUE])
    await ledger.tally()


async def test_no_statement_reads_all_keys_however_the_ledger_grew(
    home: SharedHome, records: Records
) -> None:
    """What was prepared on an empty ledger is kept, and must not read a full one through."""
    read = (
        "SELECT relname, seq_tup_read FROM pg_stat_user_tables WHERE relname IN "
        "('effects', 'bodies', 'records', 'attempts', 'orders', 'dead_letters') ORDER BY relname"
    )

    for table in ("effects", "bodies", "records", "attempts", "orders", "dead_letters"):
        home.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    async with home.open("one") as ledger:
        for number in range(12):
            await one_of_each(ledger, records, home, f"a{number}")
        home.execute(_MANY)
        before = home.rows(read)
        await one_of_each(ledger, records, home, "b")
    after = home.rows(read)
    grown = {
        str(table): int(str(now)) - int(str(then))
        for (table, then), (_, now) in zip(before, after, strict=True)
    }
    assert all(rows < 30_000 for rows in grown.values()), grown
