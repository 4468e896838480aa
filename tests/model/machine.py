"""The state machine: everything that can happen around the ledger, in any order."""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from consumers.looked_for import RESEND_WITHIN_MS
from service.domain.effects import LANE_OF, EffectKey, Kind, Lane
from service.domain.errors import RelayError
from service.domain.ports import Step
from service.operations import Selection
from tests.fakes.clock import FakeClock
from tests.fakes.log import FakeLog
from tests.fakes.remote_splio import Fate, Reading, RemoteSplio, Request
from tests.model.account import Account, Letters
from tests.model.events import STREAM, Event, Flaw, ModelPlanner, Part, key_of, record_of
from tests.model.process import (
    CRASH_STEPS,
    LEASE_MARGIN_S,
    REQUEST_TIMEOUT_S,
    RETENTION_S,
    VISIBLE_AFTER_S,
    Process,
    World,
)
from tests.model.stage import Stage
from tests.model.staged_ledger import Crashed
from tests.model.witness import OPEN, SUCCESS, Row, Witness

T = TypeVar("T")

_LEASE_MS: Final = round((REQUEST_TIMEOUT_S + LEASE_MARGIN_S) * 1000)
_RETENTION_MS: Final = round(RETENTION_S * 1000)
_DRAIN_STEPS: Final = 120
_DRAIN_STEP_S: Final = 1_800.0
# In memory where there is such a place: the disk's speed is not what is tested.
_MEMORY_DISK: Final = Path("/dev/shm")
_BY: Final = "model"

# Just before and after each time that means something: poll, lease, visibility, resend limit.
_PAUSES: Final = (0.6, 1.5, 9.0, 20.0, 30.0, 31.0, 61.0, 95.0, 880.0, 931.0, 7_200.0, 86_401.0)
_LEASE_OVER_S: Final = 31.0
_POLL_S: Final = 1.5
# What is under way loses its claim, is looked up, and what is proved absent is polled and sent.
_THROUGH_A_LOOK_UP: Final = (_LEASE_OVER_S, 931.0, _POLL_S, _POLL_S)
_ORDERS: Final = ("1", "2")
_PARTS: Final = (
    (Part.ORDER,),
    (Part.EARN,),
    (Part.ORDER, Part.EARN),
    (Part.ORDER, Part.FOLLOWER),
    (Part.ORDER, Part.EARN, Part.FOLLOWER, Part.LAST),
    (Part.FOLLOWER,),
    (Part.LAST,),
    (Part.FOLLOWER, Part.LAST),
)
_PICK: Final = st.integers(0, 5)
_FLAWS: Final = (Flaw.NONE, Flaw.NONE, Flaw.NONE, Flaw.HELD, Flaw.REJECTED, *Flaw)
_EVENT: Final = st.sampled_from(_PARTS).flatmap(
    lambda parts: st.builds(
        Event,
        order=st.sampled_from(_ORDERS),
        facts=st.sampled_from(("a", "a", "a", "b")),
        parts=st.just(parts),
        flaw=st.sampled_from(_FLAWS),
        flawed=st.sampled_from(parts),
    )
)
_EVENTS: Final = st.lists(_EVENT, min_size=1, max_size=3)


class RelayMachine(RuleBasedStateMachine):
    """
    Drives the real workers on a real ledger against a Splio far away.

    Each rule does one thing, lets everything run until it waits, and checks every promise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage()
        self.clock = FakeClock()
        self.witness = Witness(
            self.clock,
            _LEASE_MS,
            {kind.value: round(after * 1000) for kind, after in VISIBLE_AFTER_S.items()},
        )
        self.splio = RemoteSplio(self.clock, VISIBLE_AFTER_S, LEASE_MARGIN_S, self._on_request)
        self.log = FakeLog(self.clock)
        self.account = Account()
        self.letters: dict[int, Row] = {}
        self.purged: Letters = Counter()
        self.purged_rejections: Counter[EffectKey] = Counter()
        self.home = Path(tempfile.mkdtemp(dir=_MEMORY_DISK if _MEMORY_DISK.is_dir() else None))
        self.process: Process
        self.processes = 0
        self.side_tasks: list[asyncio.Task[Any]] = []
        self.braked: set[Lane] = set()  # and nobody released them since
        self.has_freezes = False
        self.is_sound = False  # the last rule ended as it should

    @initialize(instances=st.integers(1, 2), has_freezes=st.booleans(), is_sharing=st.booleans())
    def begin(self, instances: int, has_freezes: bool, is_sharing: bool) -> None:
        self.has_freezes = has_freezes
        self.stage.is_sharing = is_sharing
        self.world = World(
            self.stage,
            self.clock,
            self.splio,
            self.log,
            ModelPlanner(),
            self.witness,
            self.home / "ledger.db",
            instances,
        )
        self.stage.run(self._begin_process())
        self._play()

    # -- SCAYLE

    @rule(events=_EVENTS)
    def deliver(self, events: list[Event]) -> None:
        """Events reach the log together; what they say may be known, or contradict it."""
        held = self.log.streams.get(STREAM, [])
        self.log.put(*(record_of(event, len(held) + n) for n, event in enumerate(events)))
        self._play()

    # -- time

    @rule(seconds=st.sampled_from(_PAUSES))
    def wait(self, seconds: float) -> None:
        self._wait(seconds)

    @rule(is_lost=st.booleans())
    def wait_through_a_look_up(self, is_lost: bool) -> None:
        """All requests time out, or all workers are slow; then comes what follows from that."""
        if is_lost:
            for request in self.splio.pending():
                self._answer(request, Fate.LOST)
        self._wait(*_THROUGH_A_LOOK_UP)

    @precondition(lambda self: self.splio.pending())
    @rule(pick=_PICK, fate=st.sampled_from(Fate))
    def answer_late(self, pick: int, fate: Fate) -> None:
        """A worker is so slow that its outcome comes after its claim was lost."""
        request = _choose(self.splio.pending(), pick)
        self._wait(_LEASE_OVER_S)
        if request.is_pending:
            self._answer(request, fate)
            self._play()

    @precondition(lambda self: self.splio.pending())
    @rule()
    def look_up_slowly(self) -> None:
        """Look-ups begin when absence does not count yet, and end when it does."""
        self.splio.reading = Reading.SLOW
        for request in self.splio.pending():
            self._answer(request, Fate.LOST)
        self._play()
        self._wait(*_THROUGH_A_LOOK_UP)
        self.splio.reading = Reading.PROMPT
        for reading in list(self.splio.readings):
            self.splio.answer_reading(reading, fails=False)
        self._play()
        self._wait(_POLL_S)

    # -- Splio

    @precondition(lambda self: self.splio.pending())
    @rule(pick=_PICK, fate=st.sampled_from(Fate), is_late=st.booleans())
    def answer(self, pick: int, fate: Fate, is_late: bool) -> None:
        """A pending request is answered, perhaps long after its sender lost its claim."""
        self._answer(_choose(self.splio.pending(), pick), fate, is_late=is_late)
        self._play()

    @precondition(lambda self: self.splio.pending())
    @rule(fate=st.sampled_from((Fate.ACCEPTED, Fate.REPLY_LOST, Fate.LOST)), is_late=st.booleans())
    def answer_all(self, fate: Fate, is_late: bool) -> None:
        for request in self.splio.pending():
            self._answer(request, fate, is_late=is_late)
        self._play()

    @precondition(lambda self: self._may_land())
    @rule(pick=_PICK, is_late=st.booleans())
    def land(self, pick: int, is_late: bool) -> None:
        """A request takes effect whose sender may have given up long ago."""
        self.splio.land(_choose(self._may_land(), pick), is_late=is_late)
        self._play()

    @rule(reading=st.sampled_from((Reading.PROMPT, *Reading)))
    def change_reading(self, reading: Reading) -> None:
        self.splio.reading = reading
        self._play()

    @precondition(lambda self: self.splio.readings)
    @rule(pick=_PICK, fails=st.booleans())
    def answer_reading(self, pick: int, fails: bool) -> None:
        """A look-up ends, with what was visible when it was asked."""
        self.splio.answer_reading(_choose(self.splio.readings, pick), fails=fails)
        self._play()

    @rule(order=st.sampled_from(_ORDERS))
    def take_external_id(self, order: str) -> None:
        """Somebody else posts an order under the id of ours."""
        key = key_of(order, Part.ORDER)
        if not self.splio.requests_of(key):
            self.splio.foreign.add(key)
        self._play()

    # -- the process and its machine

    @rule(step=st.none() | st.sampled_from(CRASH_STEPS))
    def crash(self, step: Step | None) -> None:
        """The process dies, now or when it comes to `step`."""
        self.process.ledger.dies_at = step
        if step is None:
            self.stage.run(self._end_process())
            self.stage.run(self._begin_process())
        self._play()

    @rule(failing=st.integers(1, 4))
    def fill_disk(self, failing: int) -> None:
        """The next operations of the ledger fail."""
        self.process.ledger.failing = failing
        self._play()

    @rule()
    def run_out_of_room(self) -> None:
        """For a while there is room for outcomes only."""
        self._set_storage_low(True)
        self._play()
        self._wait(_POLL_S)
        self._set_storage_low(False)
        self._play()

    @rule(after_retention=st.booleans())
    def do_chores(self, after_retention: bool) -> None:
        """The slow reader comes by, and what is past its retention is removed."""
        if after_retention:
            self._wait(RETENTION_S + 60)
        self._play(lambda: self.process.ledger.mark_seen(self.splio.visible_credits(), None))
        self._play(lambda: self.process.ledger.purge(limit=100), after=self._reconcile_purge)

    # -- operators

    @precondition(lambda self: self._in_state("held"))
    @rule(pick=_PICK)
    def release(self, pick: int) -> None:
        key = _choose(self._in_state("held"), pick)
        self._play(lambda: self.process.operations.release(key, by=_BY))

    @precondition(lambda self: self._in_state("held", "in_doubt"))
    @rule(pick=_PICK)
    def reject(self, pick: int) -> None:
        key = _choose(self._in_state("held", "in_doubt"), pick)
        self._play(lambda: self.process.operations.reject(key, by=_BY))

    @precondition(lambda self: self._in_state("in_doubt"))
    @rule(pick=_PICK, is_slow=st.booleans())
    def look_up(self, pick: int, is_slow: bool) -> None:
        """An operator has an effect looked up, which may take as long as it likes."""
        key, reading = _choose(self._in_state("in_doubt"), pick), self.splio.reading
        self.splio.reading = Reading.SLOW if is_slow else reading
        self._play(lambda: self.process.operations.look_up(key, by=_BY))
        self.splio.reading = reading

    @precondition(lambda self: self.letters)
    @rule(pick=_PICK, is_mended=st.booleans())
    def replay(self, pick: int, is_mended: bool) -> None:
        """A dead letter is planned again, perhaps after its cause was mended."""
        self.world.planner.is_mended = is_mended
        letter = Selection(ids=(_choose(sorted(self.letters), pick),))
        self._play(lambda: self.process.operations.replay(letter, by=_BY))

    @precondition(lambda self: self.letters)
    @rule(pick=_PICK)
    def dismiss(self, pick: int) -> None:
        letter = Selection(ids=(_choose(sorted(self.letters), pick),))
        self._play(lambda: self.process.operations.dismiss(letter, by=_BY))

    @rule(lane=st.sampled_from((Lane.SALES, Lane.OTHER)))
    def release_lane(self, lane: Lane) -> None:
        self._release_lane(lane)

    # -- the end

    def teardown(self) -> None:
        """Let everything get well: then all is settled or waits for a person."""
        try:
            if self.is_sound:
                self._drain()
                self._check_the_end()
        finally:
            with suppress(AttributeError):  # it never began
                self.stage.run(self._end_process())
            self.stage.close()
            shutil.rmtree(self.home)

    def _drain(self) -> None:
        self.splio.is_healthy = True
        self.splio.reading = Reading.PROMPT
        self.process.ledger.dies_at = None
        self.process.ledger.failing = 0
        for request in self.splio.requests:
            if not request.is_pending:
                request.may_land = False
        for request in self.splio.pending():
            self._answer(request, Fate.ACCEPTED)
        for reading in list(self.splio.readings):
            self.splio.answer_reading(reading, fails=False)
        self._play()
        for _ in range(_DRAIN_STEPS):
            if not self._in_state("due", "attempting", "in_doubt"):
                return
            for lane in (Lane.SALES, Lane.OTHER):
                self._release_lane(lane)
            self._wait(_DRAIN_STEP_S)
        left = {key: row["state"] for key, row in self.witness.rows.items() if row["state"] in OPEN}
        raise AssertionError(f"P3: never settled: {left}")

    def _check_the_end(self) -> None:
        expect = self.witness.expect
        for key, row in self.witness.rows.items():
            landed, state = self.splio.landed(key), row["state"]
            if state == "blocked":
                first = self.witness.rows.get(row["after"])
                expect(
                    first is None or first["state"] in {"held", "blocked"},
                    f"P3 {key}: waits in vain",
                )
            if state not in SUCCESS and key not in self.splio.frozen | self.witness.given_up:
                expect(not landed, f"P3 {key}: {state}, yet Splio has it")
        self._raise_violations()

    # -- how a rule is played

    def _play(
        self,
        work: Callable[[], Awaitable[Any]] | None = None,
        *,
        after: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """Do `work` beside everything else, let all run until it waits, and check."""
        self.is_sound = False
        self.stage.run(self._run(work, after))
        self._raise_violations()
        self.is_sound = True

    async def _run(
        self,
        work: Callable[[], Awaitable[Any]] | None,
        after: Callable[[], Coroutine[Any, Any, None]] | None,
    ) -> None:
        if work is not None:
            self.side_tasks.append(asyncio.ensure_future(work()))
        await self.stage.until_idle()
        while self.process.ledger.is_dead:
            await self._end_process()
            await self._begin_process()
            await self.stage.until_idle()
        if death := self.process.died_by_itself():
            raise death
        for task in [task for task in self.side_tasks if task.done()]:
            self.side_tasks.remove(task)
            with suppress(RelayError, Crashed):  # refused, as it may be
                task.result()
        if after is not None:
            await after()
        await self._check()

    async def _begin_process(self) -> None:
        lost = self.process.ledger.lost if self.processes else []
        self.processes += 1
        self.process = Process(self.world, self.processes)
        await self.process.start(lost)
        self.braked = {Lane(lane) for lane in await self.process.stored_brakes()}
        if any(operation.name == "purge" for operation in lost):
            await self._reconcile_purge()

    async def _end_process(self) -> None:
        await self.process.end()
        self.side_tasks.clear()
        self.splio.readings.clear()

    def _wait(self, *pauses: float) -> None:
        for seconds in pauses:
            self.clock.advance(seconds)
            self._play()

    def _set_storage_low(self, low: bool) -> None:
        for dispatcher in self.process.dispatchers:
            dispatcher.set_storage_low(low)
        self.braked.clear()

    def _answer(self, request: Request, fate: Fate, *, is_late: bool = False) -> None:
        is_frozen = not request.has_landed and self.clock.now_ms() > request.shows_by_ms
        if is_frozen and not self.has_freezes and fate in {Fate.ACCEPTED, Fate.REPLY_LOST}:
            fate = Fate.FAILED
        self.splio.answer(request, fate, is_late=is_late)

    def _may_land(self) -> list[Request]:
        now_ms = self.clock.now_ms()
        return [
            request
            for request in self.splio.requests
            if request.may_land
            and not request.has_landed
            and (self.has_freezes or now_ms <= request.shows_by_ms)
        ]

    def _in_state(self, *states: str) -> list[EffectKey]:
        return [key for key, row in self.witness.rows.items() if row["state"] in states]

    def _release_lane(self, lane: Lane) -> None:
        self.braked.discard(lane)
        self._play(lambda: self.process.operations.release_lane(lane.value, by=_BY))

    # -- the promises

    def _on_request(self, request: Request) -> None:
        """What must hold when a request reaches Splio."""
        key, expect = request.key, self.witness.expect
        row = self.witness.rows[key]
        expect(row["state"] == "attempting", f"P2 {key}: sent while {row['state']}")
        for earlier in self.splio.requests_of(key):
            expect(
                earlier.is_harmless,
                f"P4 {key}: sent again, request {earlier.number} may have taken effect",
            )
        expect(LANE_OF[request.kind] not in self.braked, f"{key}: sent in a lane that is held")
        if request.kind is Kind.EARN and row["was_in_doubt"]:
            age_ms = self.clock.now_ms() - row["first_attempt_at"]
            expect(age_ms <= RESEND_WITHIN_MS, f"P4 {key}: sent again too late")

    async def _check(self) -> None:
        expect, rows = self.witness.expect, self.witness.rows
        await self._check_events(rows)
        for key, row in rows.items():
            landed = self.splio.landed(key)
            if key not in self.splio.frozen:
                expect(landed <= 1, f"P2 {key}: took effect {landed} times")
            if row["state"] in SUCCESS:
                expect(landed, f"P3 {key}: {row['state']}, yet Splio has nothing")
        for key in self.witness.touched:
            expected, found = self.witness.audit[key], await self.witness.notes_of(key)
            expect(expected == found, f"{key}: audit trail {found}, not {expected}")
        self.witness.touched.clear()
        await self._check_letters()
        await self._check_tally(rows)
        doubles = self.process.suspected_doubles()
        expect(doubles == self.witness.doubles, f"P2: {doubles} doubles were counted")
        self.braked = {lane for lane in (Lane.SALES, Lane.OTHER) if self.process.is_braked(lane)}

    async def _check_events(self, rows: dict[EffectKey, Row]) -> None:
        """P3: every event that was accepted is accounted for."""
        for plan in self.witness.replayed:
            self.account.take_replay(plan)
        self.witness.replayed.clear()
        ledger, expect = self.process.ledger.real, self.witness.expect
        assert ledger is not None
        end = len(self.log.streams.get(STREAM, []))
        position = (await ledger.positions([STREAM])).get(STREAM, 0)
        expect(position == end, f"P3: {position} of {end} events are planned")
        while self.account.taken < position:
            offset = self.account.taken
            expected = self.account.take(self.world.planner.planned[offset])
            found = self.witness.dispositions.get(offset)  # None when a crash swallowed it
            expect(found in {None, *expected}, f"P3 event {offset}: {found}, not {expected}")
        expect(rows.keys() == self.account.known.keys(), f"P3: effects {sorted(rows)}")
        for key, row in rows.items():
            seen, expected_seen = row["duplicates_seen"], self.account.duplicates[key]
            expect(seen == expected_seen, f"P3 {key}: {seen} duplicates, not {expected_seen}")
        expect(self.account.events.total() == end, "P3: an event is in no account")

    async def _check_letters(self) -> None:
        """P3: what was set aside is there, once."""
        self.letters = await self._read_letters()
        found: Letters = Counter()
        rejections: Counter[EffectKey] = Counter()
        for letter in self.letters.values():
            if letter["kind"] == "event":
                found[letter["reason"], letter["order_id"]] += letter["times_seen"]
            else:
                rejections[letter["effect_key"]] += 1
        expected = self.account.letters - self.purged
        self.witness.expect(found == expected, f"P3: dead letters {found}, not {expected}")
        expected_rejections = self.witness.rejections - self.purged_rejections
        self.witness.expect(
            rejections == expected_rejections,
            f"P3: dead letters of effects {rejections}, not {expected_rejections}",
        )

    async def _check_tally(self, rows: dict[EffectKey, Row]) -> None:
        ledger, expect = self.process.ledger.real, self.witness.expect
        assert ledger is not None
        tally = await ledger.tally()
        counts = Counter(
            (Kind(row["kind"]), row["state"]) for row in rows.values() if row["state"] in OPEN
        )
        expect(dict(tally.open_effects) == dict(counts), f"tally {tally}, not {counts}")
        letters = sum(
            letter["replayed_at"] is None and letter["dismissed_at"] is None
            for letter in self.letters.values()
        )
        expect(tally.open_dead_letters == letters, f"tally {tally}, not {letters} dead letters")
        unseen = sum(
            row["state"] == "applied" and row["kind"] == "earn" and row["seen_at"] is None
            for row in (await self.witness.read()).values()
        )
        expect(tally.unseen_credits == unseen, f"tally {tally}, not {unseen} unseen")

    async def _read_letters(self) -> dict[int, Row]:
        ledger = self.process.ledger.real
        assert ledger is not None
        page = await ledger.list_dead_letters(limit=1000)
        assert page.next is None
        return {letter["id"]: letter for letter in page.items}

    async def _reconcile_purge(self) -> None:
        """What a purge removed was old, and no open effect needed it."""
        now_ms, expect = self.clock.now_ms(), self.witness.expect
        left = await self._read_letters()
        for number in self.letters.keys() - left.keys():
            letter = self.letters[number]
            expect(letter["last_seen_at"] + _RETENTION_MS <= now_ms, f"purged too early: {letter}")
            if letter["kind"] == "event":
                self.purged[letter["reason"], letter["order_id"]] += letter["times_seen"]
            else:
                self.purged_rejections[letter["effect_key"]] += 1
        for key, row in self.witness.rows.items():
            expected, found = self.witness.audit[key], await self.witness.notes_of(key)
            if row["state"] in OPEN:
                expect(found == expected, f"{key}: the audit trail of an open effect was purged")
            expect(found <= expected, f"{key}: purging added {found - expected}")
            self.witness.audit[key] = found

    def _raise_violations(self) -> None:
        if self.witness.violations:
            raise AssertionError("\n".join(dict.fromkeys(self.witness.violations)))


def _choose(candidates: Sequence[T], pick: int) -> T:
    return candidates[pick % len(candidates)]
