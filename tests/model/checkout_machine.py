"""The points of one card under everything that a checkout and a Splio far away can do."""

import asyncio
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from consumers.balances import BalanceReader
from consumers.book_points import BookPoints
from consumers.handlers import Handler
from consumers.outcomes import settlement_of
from consumers.planner import RecordPlanner
from consumers.take_points import TakePoints
from service.domain.call_planning import CallPlanner, CallPolicy, call_body
from service.domain.checkout import (
    Call,
    CallOperation,
    KnownBalance,
    Recorded,
    Recording,
    Spending,
)
from service.domain.effects import EffectKey, Kind, Lane, State
from service.domain.errors import RelayError, WrongStateError
from service.domain.ledger import Claim, LookUpVerdict
from service.domain.loyalty import LoyaltySplio
from service.domain.ports import Splio, Step
from service.ledger.config import LedgerConfig
from service.ledger.sqlite import SqliteLedger, open_sqlite_ledger
from service.splio.requests import SplioRenderer
from service.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock
from tests.fakes.splio import FreePermit
from tests.harness.files import SqliteView
from tests.model.points_splio import VISIBLE_AFTER_MS, Fate, PointsSplio
from tests.model.staged_ledger import Crashed
from tests.unit.builders import POLICY

CARD: Final = "2171707962088"
_LEASE_S: Final = 30.0
_REWARDS: Final = ((1, "PT1"), (10, "PT10"), (100, "PT100"))
_TRACE: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_MEMORY_DISK: Final = Path("/dev/shm")
_METRICS: Final = Metrics(CollectorRegistry())
_TURNS: Final = 6  # of the loop, in which whoever can go on does
_COMMIT: Final = (Step.LEDGER_BEFORE_COMMIT, Step.LEDGER_AFTER_COMMIT)
_PICK: Final = st.integers(0, 9)
_DELAYS_MS: Final = st.sampled_from((0, 0, 1_000, VISIBLE_AFTER_MS))
_HELD_BY: Final = (
    "SELECT effect_key, points, given_back, shrunk, shown, ended_at, ended_by FROM holds"
)
_REFUNDS: Final = (
    "SELECT effect_key, order_key, points, state, coalesce(reason, '') FROM effects "
    "WHERE kind = 'refund'"
)
_REJECTED: Final = "SELECT effect_key FROM effects WHERE state = 'rejected'"
T = TypeVar("T")


class Quiet:
    """Stands before the ledger and knows whether somebody waits for it."""

    def __init__(self, ledger: SqliteLedger) -> None:
        self._ledger = ledger
        self.busy = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ledger, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.busy += 1
            try:
                return await method(*args, **kwargs)
            finally:
                self.busy -= 1

        return call


class CheckoutMachine(RuleBasedStateMachine):
    """
    Drives the real handlers and the real reader on a real ledger.

    What is answered as a balance is compared with what truly remains of the card: what was
    credited at Splio, less what was captured, and what refunds took off captures.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.splio = PointsSplio(self.clock, round(_LEASE_S * 1000))
        self.home = Path(tempfile.mkdtemp(dir=_MEMORY_DISK if _MEMORY_DISK.is_dir() else None))
        self.view = SqliteView(self.home / "ledger.db")
        self.captures: dict[str, Spending] = {}  # answered, by transaction key
        self.unanswered: list[tuple[CallOperation, Spending]] = []
        self.history: list[tuple[CallOperation, Spending, Recorded]] = []
        self.ended: Counter[EffectKey] = Counter()  # what a person ended a hold of, by capture
        self.forced: set[EffectKey] = set()  # refunds that a person released
        self.readings: list[asyncio.Task[KnownBalance]] = []
        self.attempts: list[asyncio.Task[None]] = []
        self.random = random.Random(1)
        self.processes = 0
        self.dies_at: Step | None = None
        self.orders = 0
        policy = CallPolicy("main", points_limit=400, rewards=_REWARDS)
        self.planner = CallPlanner(policy, SplioRenderer())
        self.stack: AsyncExitStack
        self.ledger: SqliteLedger
        self.reader: BalanceReader

    # -- the process

    @initialize(points=st.integers(1, 500))
    def begin(self, points: int) -> None:
        self._run(self._start())
        self.earn(points)

    @rule()
    def crash(self) -> None:
        """Only what was committed, and what Splio holds, is left."""
        self._run(self._die())
        self._run(self._start())

    @rule(points=st.integers(1, 450), order=st.integers(0, 2), at=st.sampled_from(_COMMIT))
    def crash_in_a_capture(self, points: int, order: int, at: Step) -> None:
        """It may be recorded; nobody was answered, so it comes again."""
        spending = self._spending(points, order, f"k{self.orders}")
        self.orders += 1
        self.unanswered.append((CallOperation.CAPTURE, spending))
        self.dies_at = at
        with pytest.raises(Crashed):
            self._run(self._record(CallOperation.CAPTURE, spending))
        self.crash()

    # -- SCAYLE

    @rule(points=st.integers(1, 450))
    def earn(self, points: int) -> None:
        self.orders += 1
        order_key = f"e{self.orders}"
        plan = self.planner.collect(
            order_key=order_key, card=CARD, points=points, received_at_ms=self.clock.now_ms()
        )
        spending = Spending("club", "", order_key, CARD, points, points, None)
        call = self._call(CallOperation.COLLECT, spending)
        for _ in range(2):
            self._run(self.ledger.record_call(call, plan))

    @rule(points=st.integers(1, 450), order=st.integers(0, 2))
    def capture(self, points: int, order: int) -> None:
        self._answer(CallOperation.CAPTURE, self._spending(points, order, f"k{self.orders}"))
        self.orders += 1

    @rule(points=st.integers(1, 450), order=st.integers(0, 2), key=st.integers(0, 3))
    def refund(self, points: int, order: int, key: int) -> None:
        """By the key of a capture that is there or is still to come, or by its own."""
        name = f"k{max(self.orders - key, 0)}" if key < 3 else f"r{self.orders}"
        self.orders += key == 3
        self._answer(CallOperation.REFUND, self._spending(points, order, name))

    @precondition(lambda self: self.history)
    @rule(pick=_PICK)
    def refund_in_full(self, pick: int) -> None:
        _, spending, _ = self._one(self.history, pick)
        self._answer(CallOperation.REFUND, replace(spending, transaction_key=f"r{self.orders}"))
        self.orders += 1

    @precondition(lambda self: self.history)
    @rule(pick=_PICK)
    def repeat(self, pick: int) -> None:
        operation, spending, before = self._one(self.history, pick)
        known = self._run(self.ledger.known_balance(CARD))
        recorded = self._run(self._record(operation, spending)).recorded
        if before in {Recorded.TAKEN, Recorded.NO_CAPTURE, Recorded.REPEATED}:
            assert recorded is Recorded.REPEATED, recorded
            assert self._run(self.ledger.known_balance(CARD)) == known
        else:
            self._note(operation, spending, recorded)

    @precondition(lambda self: self.unanswered)
    @rule()
    def answer_what_was_cut_off(self) -> None:
        while self.unanswered:
            self._answer(*self.unanswered.pop())

    # -- the way to Splio

    @rule(pick=_PICK)
    def send(self, pick: int) -> None:
        self._run(self._send(pick))

    @precondition(lambda self: self.splio.pending)
    @rule(pick=_PICK, fate=st.sampled_from((*Fate, Fate.ACCEPTED)), delay_ms=_DELAYS_MS)
    def answer(self, pick: int, fate: Fate, delay_ms: int) -> None:
        request = self._one(self.splio.pending, pick)
        if request not in self.splio.may_land and not request.landed:
            fate = Fate.LOST
        self.splio.answer(request, fate, delay_ms=delay_ms)
        self._run(self._rest())

    @rule(pick=_PICK, fate=st.sampled_from(Fate), delay_ms=_DELAYS_MS)
    def send_and_answer(self, pick: int, fate: Fate, delay_ms: int) -> None:
        known = len(self.splio.requests)
        self._run(self._send(pick))
        for request in self.splio.requests[known:]:
            self.splio.answer(request, fate, delay_ms=delay_ms)
        self._run(self._rest())

    @precondition(lambda self: self.splio.may_land)
    @rule(pick=_PICK, delay_ms=_DELAYS_MS)
    def land(self, pick: int, delay_ms: int) -> None:
        self.splio.land(self._one(self.splio.may_land, pick), delay_ms=delay_ms)

    @rule(sees_credits=st.booleans())
    def look_up(self, sees_credits: bool) -> None:
        if sees_credits:
            self._run(self.ledger.mark_seen(self.splio.shown_credits(), None))
        self._run(self._look_up())

    @rule(seconds=st.sampled_from((0.001, 1.0, 31.0, 901.0)))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # -- balances

    @precondition(lambda self: len(self.readings) < 3)
    @rule()
    def ask_balance(self) -> None:
        reading = self.reader.read(
            CARD, permit=FreePermit(), deadline_s=float("inf"), traceparent=_TRACE
        )
        self.readings.append(self.loop.create_task(reading))
        self._run(self._rest())

    @rule()
    def read_balance(self) -> None:
        """One answered at once, unless debits are sent in between."""
        self.splio.is_prompt = True
        known = self._run(self._ask())
        self.splio.is_prompt = False
        assert (known.usable or 0) <= self._remaining()

    @precondition(lambda self: self.splio.questions)
    @rule(pick=_PICK, is_told=st.booleans())
    def answer_question(self, pick: int, is_told: bool) -> None:
        """Splio looks at its books; the answer arrives now, or later."""
        question = self._one(self.splio.questions, pick)
        self.splio.see(question)
        if is_told:
            self.splio.tell(question)
            self._run(self._rest())

    # -- operators

    @rule(pick=_PICK, is_release=st.booleans())
    def decide(self, pick: int, is_release: bool) -> None:
        """A person releases or rejects what is held, or rejects what is in doubt."""
        states = (State.HELD,) if is_release else (State.HELD, State.IN_DOUBT)
        page = self._run(
            self.ledger.list_effects(states=states, kind=None, order_id=None, limit=50, after=None)
        )
        if not page.items:
            return
        item = self._one(list(page.items), pick)
        if is_release and item["kind"] == Kind.REFUND:
            self.forced.add(item["effect_key"])
        act = self.ledger.release if is_release else self.ledger.reject
        self._run(act(item["effect_key"], by="anna"))

    @rule(pick=_PICK)
    def replay(self, pick: int) -> None:
        """A person has done after all what another one rejected, or what we refused."""
        letters = self._run(self.ledger.list_dead_letters(only_open=True)).items
        if not letters:
            return
        letter = self._run(self.ledger.dead_letter(self._one(list(letters), pick)["id"]))
        planned = RecordPlanner(POLICY, SplioRenderer(), self.planner).plan_again(letter)
        if planned.plan.dead_letter is not None:
            return  # of a debit, or a refund that contradicts its capture
        if letter.kind == Kind.REFUND and letter.effect_key is not None:
            self.forced.add(letter.effect_key)
        self._run(self.ledger.replay(letter.id, planned, by="anna"))

    @precondition(lambda self: any(row[5] is None for row in self.view.rows(_HELD_BY)))
    @rule(pick=_PICK)
    def end_hold(self, pick: int) -> None:
        """A person says that these points are not to be taken."""
        open_holds = [row for row in self.view.rows(_HELD_BY) if row[5] is None]
        key, points, _, shrunk, _, _, _ = self._one(open_holds, pick)
        try:
            self._run(self.ledger.end_hold(key, by="anna"))
        except WrongStateError as error:
            assert error.reason == "debits_under_way"  # noqa: PT017  any other is a bug
        else:
            self.ended[key] = points - shrunk

    @precondition(lambda self: any(row[3] == State.BLOCKED for row in self._refunds()))
    @rule()
    def expire_waiting(self) -> None:
        self._run(self.ledger.expire_waiting_refunds(older_than_ms=self.clock.now_ms() + 1))

    # -- what must hold

    @invariant()
    def no_balance_has_what_was_spent(self) -> None:
        if not self.processes:
            return
        remaining = self._remaining()
        known = self._run(self.ledger.known_balance(CARD))
        assert (known.usable or 0) <= remaining, f"{known} of {remaining}"
        for reading in [each for each in self.readings if each.done()]:
            self.readings.remove(reading)
            if not reading.cancelled() and not isinstance(reading.exception(), RelayError):
                assert (reading.result().usable or 0) <= remaining

    @invariant()
    def holds_are_sound(self) -> None:
        if not self.processes:
            return
        for key, points, given_back, shrunk, shown, ended_at, ended_by in self.view.rows(_HELD_BY):
            assert 0 <= shrunk <= given_back <= points, key
            assert 0 <= shown <= points - shrunk, key
            held = points - shrunk - shown
            assert (ended_at is not None) == (held == 0 or ended_by is not None), key
        landed = self.splio.landed()
        given = 0
        for key, _, points, state, reason in self._refunds():
            assert state != State.VOID, f"{key} was given up by nobody"
            is_shrunk = reason == "hold_shrunk"
            assert not (is_shrunk and key in landed), f"{key} was given back twice"
            given += points * ((is_shrunk or key in landed) and key not in self.forced)
        assert given <= sum(row[1] for row in self.view.rows(_HELD_BY))

    def teardown(self) -> None:
        try:
            if self.processes:
                self.answer_what_was_cut_off()
                self._run(self._come_to_rest())
                self.no_balance_has_what_was_spent()
                self.holds_are_sound()
                known = self._run(self._ask())
                assert known.usable == self._remaining(), f"{known} of {self._remaining()}"
                # What a person gave up before it was looked up may be at Splio for ever.
                given_up = {row[0] for row in self.view.rows(_REJECTED)}
                assert given_up.issuperset(known.unseen)
                assert set(self.captures) == {
                    str(key).rsplit(":", 1)[1] for key, *_ in self.view.rows(_HELD_BY)
                }
                self._assert_nothing_waits_for_nobody()
        finally:
            if self.processes:
                self._run(self._die())
            self.loop.close()
            shutil.rmtree(self.home)

    # -- how it is done

    def _refunds(self) -> list[Any]:
        return self.view.rows(_REFUNDS)

    def _remaining(self) -> int:
        landed = self.splio.landed()
        credited = sum(points for points in landed.values() if points > 0)
        captured = sum(spending.points for spending in self.captures.values())
        shrunk: int = sum(row[2] for row in self._refunds() if row[4] == "hold_shrunk")
        # Debits that were granted took their points all the same, shown or not.
        taken = sum(
            -points
            for key, points in landed.items()
            if points < 0 and any(_is_debit_of(key, capture) for capture in self.ended)
        )
        return max(credited - captured + shrunk + self.ended.total() - taken, 0)

    def _assert_nothing_waits_for_nobody(self) -> None:
        """What is not settled waits for a person, for one who does, or for its capture."""
        rows = self.view.rows(
            "SELECT e.effect_key, e.state, p.state FROM effects AS e "
            "LEFT JOIN effects AS p ON p.effect_key = e.after "
            "WHERE e.state NOT IN ('applied', 'duplicate', 'rejected', 'void', 'held') "
            "AND e.effect_key NOT IN (SELECT effect_key FROM waiting_refunds)"
        )
        assert not [row for row in rows if row[1:] not in {("blocked", "held"), ("blocked",) * 2}]

    def _answer(self, operation: CallOperation, spending: Spending) -> None:
        self._note(operation, spending, self._run(self._record(operation, spending)).recorded)

    def _note(self, operation: CallOperation, spending: Spending, recorded: Recorded) -> None:
        self.history.append((operation, spending, recorded))
        is_taken = recorded in {Recorded.TAKEN, Recorded.REPEATED}
        if operation is CallOperation.CAPTURE and is_taken:
            self.captures[spending.transaction_key] = spending

    async def _record(self, operation: CallOperation, spending: Spending) -> Recording:
        call = self._call(operation, spending)
        if operation is CallOperation.CAPTURE:
            return await self.ledger.record_capture(self.planner.capture(spending, call))
        return await self.ledger.record_refund(self.planner.refund(spending, call))

    def _call(self, operation: CallOperation, spending: Spending) -> Call:
        return Call(
            operation,
            f"call-{operation}-{spending.transaction_key}-{spending.order_key}",
            spending.order_key,
            call_body(operation, spending),
            self.clock.now_ms(),
            _TRACE,
        )

    @staticmethod
    def _spending(points: int, order: int, key: str) -> Spending:
        return Spending("club", key, f"o{order}", CARD, points, points, None)

    async def _start(self) -> None:
        self.processes += 1
        self.stack = AsyncExitStack()
        real = await self.stack.enter_async_context(
            open_sqlite_ledger(
                self.home / "ledger.db",
                config=LedgerConfig(
                    owner=f"process-{self.processes}",
                    tenant="main",
                    visible_after_s=dict.fromkeys(Kind, VISIBLE_AFTER_MS / 1000),
                ),
                clock=self.clock,
                metrics=_METRICS,
                step=self._step,
            )
        )
        self.quiet = Quiet(real)
        self.ledger = cast(SqliteLedger, self.quiet)
        loyalty, splio = cast(LoyaltySplio, self.splio), cast(Splio, self.splio)
        self.reader = BalanceReader(self.ledger, loyalty, self.clock)
        credits_ = BookPoints(splio, self.clock, card_patience_s=3600, random_=self.random)
        self.handlers: dict[Kind, Handler] = {
            Kind.EARN: credits_,
            Kind.REFUND: credits_,
            Kind.DEBIT: TakePoints(loyalty, self.clock),
        }

    def _step(self, step: Step) -> None:
        """The hook of every labelled step, on the ledger's thread."""
        if step is self.dies_at:
            self.dies_at = None
            raise Crashed(step)

    async def _die(self) -> None:
        tasks = [*self.readings, *self.attempts]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.readings.clear()
        self.attempts.clear()
        self.splio.questions.clear()
        await self.stack.aclose()

    async def _send(self, pick: int) -> bool:
        due_before_ms = self.clock.now_ms() + 1
        ready = await self.ledger.ready(Lane.OTHER, limit=20, due_before_ms=due_before_ms)
        if not ready:
            return False
        claim = await self.ledger.claim(ready[pick % len(ready)], lease_s=_LEASE_S)
        if claim is not None:
            self.attempts.append(asyncio.create_task(self._attempt(claim)))
            await self._rest()
        return True

    async def _attempt(self, claim: Claim) -> None:
        deadline_s = self.clock.monotonic_s() + _LEASE_S
        try:
            ended = await self.handlers[claim.effect.kind].attempt(
                claim, permit=FreePermit(), deadline_s=deadline_s
            )
            settlement = ended.settlement
        except RelayError as error:
            settlement = settlement_of(
                error, claim, now_ms=self.clock.now_ms(), random_=self.random
            )
        await self.ledger.settle(claim, settlement)

    async def _look_up(self) -> None:
        await self.ledger.expire_leases()
        for doubt in await self.ledger.doubts(limit=50):
            look_up = await self.handlers[doubt.effect.kind].look_up(doubt)
            assert look_up.reason != "double"
            assert look_up.verdict is not LookUpVerdict.DIFFERENT
            await self.ledger.record_look_up(doubt, look_up)

    async def _ask(self) -> KnownBalance:
        return await self.reader.read(
            CARD, permit=FreePermit(), deadline_s=float("inf"), traceparent=_TRACE
        )

    async def _come_to_rest(self) -> None:
        """Splio is well, and all that can be done without a person is done."""
        self.splio.is_healthy = True
        for request in self.splio.pending:
            is_late = request not in self.splio.may_land and not request.landed
            self.splio.answer(request, Fate.LOST if is_late else Fate.ACCEPTED, delay_ms=0)
        for question in list(self.splio.questions):
            self.splio.tell(question)
        await self._rest()
        self.clock.advance(1)
        for _ in range(4):
            await self._look_up()
            while await self._send(0):
                pass
            self.clock.advance(VISIBLE_AFTER_MS / 1000 + _LEASE_S + 1)

    async def _rest(self) -> None:
        """Until everybody waits for Splio."""
        turns = 0
        while turns < _TURNS:
            await asyncio.sleep(0 if not self.quiet.busy else 0.0002)
            turns = 0 if self.quiet.busy else turns + 1
        for attempt in [each for each in self.attempts if each.done()]:
            self.attempts.remove(attempt)
            attempt.result()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @staticmethod
    def _one(items: list[T], pick: int) -> T:
        return items[pick % len(items)]


def _is_debit_of(key: EffectKey, capture: EffectKey) -> bool:
    return key.startswith(f"{capture.replace(f':{Kind.CAPTURE}:', f':{Kind.DEBIT}:')}:")
