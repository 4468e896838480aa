"""Several processes hammer one ledger on PostgreSQL; afterwards the promises are counted."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Final

import pytest

from service.domain.effects import EffectKey, Kind, Lane, Outcome, State
from service.domain.errors import NotFoundError, WrongStateError
from service.domain.ledger import (
    Claim,
    Doubt,
    LookUp,
    LookUpVerdict,
    PlannedRecord,
    Settlement,
    SettleResult,
)
from service.domain.notices import DeadLetterNotice, OutcomeNotice
from service.domain.planning import Plan, PlannedEffect
from service.ledger.sql_ledger import SqlLedger
from tests.contract.ledger_fixture import (
    LEASE_S,
    Records,
    earn_key,
    facts_of,
    order_key,
    planned_effect,
)
from tests.harness.postgres_server import PostgresServer
from tests.integration.shared_ledger import SharedHome, shared_home

_PROCESSES: Final = 3
_TASKS: Final = 4  # of each kind in a process
_ORDERS: Final = 25
_CHAOS: Final = 60  # turns of each task before everything is brought to its end
_MOST_TURNS: Final = 400
_SETTLED: Final = {State.APPLIED, State.DUPLICATE, State.REJECTED, State.VOID}


@pytest.fixture
def home(postgres_server: PostgresServer) -> Iterator[SharedHome]:
    with shared_home(postgres_server) as home:
        # Deadlocks are looked for at once: a second each would be most of the test.
        home.execute(f"ALTER DATABASE {home.address.rpartition('/')[2]} SET deadlock_timeout = 20")
        yield home


@dataclass(slots=True)
class Hammer:
    """What the processes did, and what Splio has of it."""

    home: SharedHome
    random: random.Random
    ledgers: list[SqlLedger]
    records: Records = field(default_factory=Records)
    planned_by: dict[str, PlannedRecord] = field(default_factory=dict)  # by event id
    deliveries: Counter[EffectKey] = field(default_factory=Counter)
    booked: Counter[EffectKey] = field(default_factory=Counter)
    attempts: Counter[tuple[EffectKey, int]] = field(default_factory=Counter)
    lost: list[tuple[Claim, Outcome]] = field(default_factory=list)  # settled late, or never
    results: Counter[SettleResult] = field(default_factory=Counter)
    is_calm: bool = False

    # -- planning

    def plans(self) -> list[PlannedRecord]:
        """Chains of three effects, each delivered once to three times and in any order."""
        made = []
        for number in range(_ORDERS):
            name = str(number)
            first = planned_effect(name)
            second = replace(planned_effect(name, Kind.EARN), after=first.key)
            third = replace(planned_effect(f"{name}r"), after=second.key)
            # A booking comes alone: beside an order that is known it would be left to another way.
            groups: list[tuple[PlannedEffect, ...]] = [(first, third), (second,)]
            more = self.random.sample([(third,), (first,), *groups], self.random.randint(1, 4))
            for effects in (*groups, *more):
                planned = self.records.planned(Plan(name, effects, facts_of(name)))
                made.append(planned)
                self.planned_by[planned.event_id] = planned
                for effect in effects:
                    self.deliveries[effect.key] += 1
        self.random.shuffle(made)
        return made

    async def plan(self, waiting: list[PlannedRecord], ledger: SqlLedger) -> None:
        while waiting:
            count = self.random.randint(1, 6)
            batch, waiting[:] = waiting[:count], waiting[count:]
            await ledger.record_plans(batch, [])

    # -- attempting

    async def dispatch(self, ledger: SqlLedger) -> None:
        lane = self.random.choice([Lane.SALES, Lane.OTHER])
        due = await ledger.ready(lane, limit=5, due_before_ms=self.home.clock.now_ms() + 1)
        if not due:
            return
        effect = self.random.choice(due)
        claim = await ledger.claim(effect, lease_s=LEASE_S)
        if claim is None:
            return
        self.attempts[effect.key, claim.attempt] += 1
        if self.home.clock.now_ms() >= claim.lease_until_ms:
            return  # the sender's own deadline
        outcome, is_told = self._ask(effect.key)
        if not is_told:
            self.lost.append((claim, outcome))
            return
        await self._settle(ledger, claim, outcome)

    def _ask(self, key: EffectKey) -> tuple[Outcome, bool]:
        """How the attempt ends, and whether it is recorded in time."""
        if self.is_calm:
            self.booked[key] += 1
            return Outcome.APPLIED, True
        if self.random.random() < 0.5:
            self.booked[key] += 1
            outcome = self.random.choice([Outcome.APPLIED, Outcome.APPLIED, Outcome.IN_DOUBT])
        else:
            outcome = self.random.choice(
                [Outcome.RETRY, Outcome.RETRY, Outcome.IN_DOUBT, Outcome.REJECTED]
            )
        return outcome, self.random.random() < 0.8

    async def _settle(self, ledger: SqlLedger, claim: Claim, outcome: Outcome) -> None:
        settlement = Settlement(outcome, reason="x", due_at_ms=self.home.clock.now_ms())
        self.results[await ledger.settle(claim, settlement)] += 1

    async def settle_late(self, ledger: SqlLedger) -> None:
        if self.lost and self.random.random() < 0.3:
            claim, outcome = self.lost.pop(self.random.randrange(len(self.lost)))
            await self._settle(ledger, claim, outcome)

    # -- looking up

    async def look_up(self, ledger: SqlLedger) -> None:
        await ledger.expire_leases()
        doubts = await ledger.doubts(limit=5)
        if doubts:
            await self._resolve(ledger, self.random.choice(doubts))

    async def _resolve(self, ledger: SqlLedger, doubt: Doubt) -> None:
        asked_at_ms = self.home.clock.now_ms()
        look_up = LookUp(LookUpVerdict.UNKNOWN, again_at_ms=doubt.absence_counts_from_ms)
        if self.booked[doubt.effect.key]:
            look_up = LookUp(LookUpVerdict.FOUND)
        elif asked_at_ms >= doubt.absence_counts_from_ms:
            verdicts = [LookUpVerdict.ABSENT, LookUpVerdict.ABSENT, LookUpVerdict.HOLD]
            look_up = LookUp(LookUpVerdict.ABSENT if self.is_calm else self.random.choice(verdicts))
        # Too early where another attempt of it ended since, and is in doubt itself.
        with contextlib.suppress(WrongStateError):
            await ledger.record_look_up(doubt, look_up)

    async def mark_seen(self, ledger: SqlLedger) -> None:
        shown = [key for key in self.booked if ":earn:" in key]
        if shown:
            await ledger.mark_seen(self.random.sample(shown, min(3, len(shown))), "c")

    # -- operating

    async def operate(self, ledger: SqlLedger) -> None:
        chance = 1.0 if self.is_calm else self.random.random()
        try:
            if chance < 0.3:
                doubtful = [State.HELD, State.IN_DOUBT]
                for row in (await ledger.list_effects(states=doubtful, limit=1)).items:
                    await ledger.reject(row["effect_key"], by="anna")
            elif chance < 0.6 or self.is_calm:
                for row in (await ledger.list_effects(states=[State.HELD], limit=2)).items:
                    await ledger.release(row["effect_key"], by="anna")
            elif chance < 0.95:
                letters = (await ledger.list_dead_letters(only_open=True, limit=5)).items
                for letter in letters[:1]:
                    # Of its own record: another may not have been delivered yet.
                    event_id = (await ledger.dead_letter(letter["id"])).event_id
                    await ledger.replay(letter["id"], self.planned_by[event_id], by="anna")
            else:
                await ledger.purge(limit=50)
        except (NotFoundError, WrongStateError):
            pass  # another person was quicker

    async def move_time(self, _: SqlLedger) -> None:
        self.home.clock.advance(self.random.choice([0.5, 5, 20]))

    # -- the end

    async def run(self) -> None:
        waiting = self.plans()
        planners = [self.plan(waiting, ledger) for ledger in self.ledgers for _ in range(2)]
        turns: list[Callable[[SqlLedger], Awaitable[None]]] = [
            self.dispatch,
            self.dispatch,
            self.settle_late,
            self.look_up,
            self.mark_seen,
            self.operate,
        ]

        async def chaos(ledger: SqlLedger) -> None:
            for _ in range(_CHAOS):
                await self.random.choice(turns)(ledger)

        async def time() -> None:
            for _ in range(_CHAOS):
                await self.move_time(self.ledgers[0])
                await self.ledgers[0].ping()

        await asyncio.gather(
            *planners, *(chaos(each) for each in self.ledgers for _ in range(_TASKS)), time()
        )
        self.is_calm = True
        for _ in range(_MOST_TURNS):
            self.home.clock.advance(300)
            await asyncio.gather(
                *(turn(each) for each in self.ledgers for turn in (*turns, self.dispatch))
            )
            if not await self._open():
                return
        raise AssertionError(await self._open())

    async def _open(self) -> Sequence[object]:
        return self.home.rows(
            "SELECT effect_key, state, after FROM effects "
            "WHERE state NOT IN ('applied', 'duplicate', 'rejected', 'void')"
        )


@pytest.mark.parametrize("seed", range(4))
async def test_processes_that_are_in_each_others_way_keep_the_promises(
    home: SharedHome, seed: int
) -> None:
    """P2, P3, P4, P5: each effect once, none lost, and everything told."""
    async with AsyncExitStack() as stack:
        ledgers = [
            await stack.enter_async_context(home.open(f"process-{number}"))
            for number in range(_PROCESSES)
        ]
        hammer = Hammer(home, random.Random(seed), ledgers)
        await hammer.run()
        notices = [entry.notice for entry in await ledgers[0].outbox(limit=100_000)]
    assert max(hammer.attempts.values()) == 1, "a claim was given twice"
    assert max(hammer.booked.values()) == 1, "booked twice"
    assert SettleResult.SUSPECTED_DOUBLE not in hammer.results
    effects = {
        str(key): (State(str(state)), after, int(str(repeats)))
        for key, state, after, repeats in home.rows(
            "SELECT effect_key, state, after, duplicates_seen FROM effects"
        )
    }
    assert effects.keys() == set(hammer.deliveries)
    told = Counter(
        (notice.effect_key, notice.outcome)
        for notice in notices
        if isinstance(notice, OutcomeNotice)
    )
    for key, (state, after, repeats) in effects.items():
        assert repeats == hammer.deliveries[EffectKey(key)] - 1, key
        assert told[EffectKey(key), state] >= 1, (key, state)
        assert told[EffectKey(key), State.APPLIED] == (state is State.APPLIED), key
        if state is not State.REJECTED:
            assert hammer.booked[EffectKey(key)] == (state is State.APPLIED), key
        if hammer.booked[EffectKey(key)] and after is not None:
            assert hammer.booked[EffectKey(str(after))] == 1, f"{key} before {after}"
    letters = Counter(notice.id for notice in notices if isinstance(notice, DeadLetterNotice))
    assert letters == Counter(row[0] for row in home.rows("SELECT id FROM dead_letters"))
    assert order_key("0") in effects and earn_key("0") in effects
