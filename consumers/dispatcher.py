"""The dispatcher: permit, claim, attempt, record the outcome; one queue per rate category."""

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from consumers.brake import BrakeRule
from consumers.handlers import Ended, Handler, count_points
from consumers.lane import LaneGate, LaneQueue
from consumers.outcomes import settlement_of
from consumers.recording import record_outcome
from consumers.stopping import once_available, set_within
from service.domain.clock import Clock
from service.domain.effects import Kind, Lane, Outcome, Prerequisite
from service.domain.errors import (
    LanePausedError,
    LedgerUnavailableError,
    NotFoundError,
    PermanentError,
    RelayError,
    RetryableError,
)
from service.domain.ledger import (
    BrakeLedger,
    Claim,
    DispatchLedger,
    ReadyEffect,
    Settlement,
    SettleResult,
)
from service.domain.ports import Permit, Splio, Step, StepHook
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import trace_id

_POLL_S: Final = 0.5
_POLL_OLDER_THAN_MS: Final = 1_000  # fresh effects come by memory; polling takes what is left
_RELEASED_OLDER_THAN_MS: Final = -50  # due this moment, by a clock that may be a little ahead
_LEDGER_RETRY_S: Final = 0.5
_UNAUTHORIZED: Final = 401
_CREATIONS: Final = 512  # orders that wait for a creation at once; those beyond retry by time

logger = logging.getLogger("relay.dispatcher")


class DispatcherLedger(DispatchLedger, BrakeLedger, Protocol):
    """The parts of the ledger that the dispatcher uses."""


@dataclass(frozen=True, slots=True)
class DispatcherConfig:
    """
    How the dispatcher works.

    A request has `request_timeout_s` from its claim to its end; the lease outlives that by
    `lease_margin_s`. `concurrency` attempts a lane, `queue_size` effects in memory a lane.
    """

    request_timeout_s: float
    lease_margin_s: float
    grace_s: float
    brake_rule: BrakeRule | None
    concurrency: int = 32
    queue_size: int = 1_000


class Dispatcher:
    """The worker that attempts effects. Lanes do not wait for each other."""

    name = "dispatcher"

    def __init__(
        self,
        ledger: DispatcherLedger,
        splio: Splio,
        handlers: Mapping[Kind, Handler],
        *,
        config: DispatcherConfig,
        clock: Clock,
        metrics: Metrics,
        step: StepHook,
        random_: random.Random,
    ) -> None:
        self._ledger = ledger
        self._splio = splio
        self._handlers = handlers
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self._step = step
        self._random = random_
        self._lease_s = config.request_timeout_s + config.lease_margin_s
        self._queues = {lane: LaneQueue(config.queue_size) for lane in Lane}
        self.gates = {
            lane: LaneGate(lane, clock=clock, brake_rule=config.brake_rule) for lane in Lane
        }
        self._busy: set[asyncio.Task[None]] = set()
        self._in_flight = dict.fromkeys(Lane, 0)
        self._creations: set[asyncio.Task[None]] = set()
        self._halt = asyncio.Event()  # no new attempt: asked to stop, or a part of this died
        self._failures: list[BaseException] = []
        self._released: set[Lane] = set()  # an outcome made another effect due there just now
        self._braking: set[Lane] = set()  # braked here, and the ledger does not know it yet
        self._attempt_seconds = {kind: metrics.attempt_seconds.labels(kind.value) for kind in Kind}
        self._applied_seconds = {kind: metrics.applied_seconds.labels(kind.value) for kind in Kind}
        self._attempts = {
            (kind, outcome): metrics.attempts.labels(kind.value, outcome.value)
            for kind in Kind
            for outcome in Outcome
        }
        self._last_applied = metrics.last_applied.labels("dispatcher")
        self.in_doubt = asyncio.Event()  # set when an effect became in doubt

    def offer(self, effects: Sequence[ReadyEffect]) -> None:
        """Take effects that were planned just now; what does not fit is polled later."""
        by_lane: dict[Lane, list[ReadyEffect]] = defaultdict(list)
        for effect in effects:
            by_lane[effect.lane].append(effect)
        for lane, fresh in by_lane.items():
            self._queues[lane].offer(fresh)

    async def run(self, stop: asyncio.Event) -> None:
        """
        Attempt until `stop`; attempts under way are finished within the grace period.

        Past it they are abandoned with their claim in place: the next run looks them up.
        """
        for brake in await once_available(stop, self._ledger.brakes) or ():
            if brake.lane in self.gates:
                self.gates[Lane(brake.lane)].set_brake(brake.reason)
        used = [lane for lane in Lane if lane is not Lane.CONTACTS]
        workers = [
            asyncio.create_task(self._work(lane), name=f"{lane.value}-{number}")
            for lane in used
            for number in range(self._config.concurrency)
        ]
        pollers = [
            asyncio.create_task(self._poll(lane), name=f"poll-{lane.value}") for lane in used
        ]
        tasks = [*workers, *pollers]
        for task in tasks:
            task.add_done_callback(self._note_end)
        halted = asyncio.create_task(self._halt.wait(), name="dispatcher-halt")
        stopping = asyncio.create_task(stop.wait(), name="dispatcher-stop")
        try:
            await asyncio.wait((stopping, halted), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._wind_down(tasks, (stopping, halted))
        if self._failures:
            raise self._failures[0]  # one ends the process; the others are in the log

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """A part that ends by an error ends the dispatcher."""
        if not task.cancelled() and (error := task.exception()) is not None:
            if self._failures:
                logger.error("attempt.failed", extra={"worker": task.get_name()}, exc_info=error)
            self._failures.append(error)
            self._halt.set()

    async def _wind_down(
        self, tasks: Sequence[asyncio.Task[None]], waiters: Sequence[asyncio.Task[Any]]
    ) -> None:
        self._halt.set()
        for task in tasks:
            if task not in self._busy:
                task.cancel()
        if unfinished := (*self._busy, *self._creations):
            _, late = await asyncio.wait(unfinished, timeout=self._config.grace_s)
            for task in late:
                logger.warning("attempt.abandoned", extra={"worker": task.get_name()})
        leftovers = (*waiters, *tasks, *self._creations)
        for leftover in leftovers:
            leftover.cancel()
        await asyncio.wait(leftovers)

    def describe(self) -> list[dict[str, Any]]:
        """One row a lane, for people and machines."""
        return [
            {
                "lane": lane.value,
                "queued": len(self._queues[lane]),
                "in_flight": self._in_flight[lane],
                "open": gate.is_open(),
                "paused": gate.paused,
                "braked": gate.braked,
                "storage_low": gate.storage_low,
            }
            for lane, gate in self.gates.items()
        ]

    def release(self, lane: str) -> None:
        """Forget pause and brake of `lane`. Raises: NotFoundError."""
        try:
            self.gates[Lane(lane)].release()
        except ValueError:
            raise NotFoundError("unknown_lane", lane) from None

    def follow_brakes(self, brakes: Mapping[str, str], *, asked_at_s: float) -> None:
        """Brake or go on as the ledger said: another process, or an operator there, decided."""
        for lane, gate in self.gates.items():
            if lane not in self._braking:
                gate.follow_brake(brakes.get(lane.value), asked_at_s=asked_at_s)

    def set_storage_low(self, low: bool) -> None:
        """Stop claiming while there is still room for outcomes, or go on."""
        for gate in self.gates.values():
            gate.set_storage_low(low)

    def observe(self) -> None:
        """Write what only a look can tell into the metrics."""
        for lane, gate in self.gates.items():
            self._metrics.lane_queue.labels(lane.value).set(len(self._queues[lane]))
            self._metrics.lane_in_flight.labels(lane.value).set(self._in_flight[lane])
            self._metrics.lane_paused.labels(lane.value).set(gate.paused is not None)
            self._metrics.lane_braked.labels(lane.value).set(gate.braked is not None)

    async def _poll(self, lane: Lane) -> None:
        """Bring effects that are due and not in memory: retries, and what did not fit."""
        queue = self._queues[lane]
        while not self._halt.is_set():
            queue.wants_refill.clear()
            limit = queue.room()
            older_ms = _RELEASED_OLDER_THAN_MS if lane in self._released else _POLL_OLDER_THAN_MS
            self._released.discard(lane)
            try:
                due = await self._ledger.ready(
                    lane,
                    limit=limit,
                    due_before_ms=self._clock.now_ms() - older_ms,
                    excluding=frozenset(queue.in_hand),
                )
            except LedgerUnavailableError as error:
                logger.warning("lane.not_polled", extra={"lane": lane, "reason": error.reason})
            else:
                queue.refill(due, complete=len(due) < limit)
            await set_within(queue.wants_refill, self._clock, _POLL_S)

    async def _work(self, lane: Lane) -> None:
        queue, gate = self._queues[lane], self.gates[lane]
        task = asyncio.current_task()
        assert task is not None
        while not self._halt.is_set():
            effect = await queue.take()
            is_probe = await gate.passed()
            permit = await self._splio.permit(lane)
            if not gate.lets_through(is_probe=is_probe):
                permit.hand_back()  # the lane was stopped while this waited
                gate.skipped(is_probe=is_probe)
                queue.put_back(effect)
                continue
            self._step(Step.PERMIT_TAKEN)
            self._busy.add(task)
            self._in_flight[lane] += 1
            try:
                await self._attempt(effect, gate, permit, is_probe=is_probe)
            finally:
                self._in_flight[lane] -= 1
                self._busy.discard(task)
                queue.done(effect.key)

    async def _attempt(
        self, effect: ReadyEffect, gate: LaneGate, permit: Permit, *, is_probe: bool
    ) -> None:
        started_s = self._clock.monotonic_s()
        try:
            claim = await self._ledger.claim(effect, lease_s=self._lease_s)
        except LedgerUnavailableError as error:
            permit.hand_back()
            gate.skipped(is_probe=is_probe)
            logger.warning("effect.not_claimed", extra={"reason": error.reason})
            await self._clock.sleep(_LEDGER_RETRY_S)
            return
        if claim is None:
            permit.hand_back()
            gate.skipped(is_probe=is_probe)
            return
        self._step(Step.EFFECT_CLAIMED)
        ended = await self._ask(claim, gate, permit, started_s, is_probe=is_probe)
        self._step(Step.ATTEMPT_ENDED)
        # Nothing cancels a busy worker within the grace period, so this needs no shield.
        result = await record_outcome(self._ledger, claim, ended.settlement, clock=self._clock)
        self._step(Step.OUTCOME_RECORDED)
        self._look_for_followers(claim.effect, ended.settlement.outcome)
        await self._account(claim, ended.settlement, result, gate, started_s)
        if ended.create is not None:
            self._create(claim, ended.create)

    def _look_for_followers(self, effect: ReadyEffect, outcome: Outcome) -> None:
        """The debits of a capture go one after the other, and nobody plans the next one."""
        if effect.kind is Kind.DEBIT and outcome is Outcome.APPLIED:
            self._released.add(effect.lane)
            self._queues[effect.lane].wants_refill.set()

    async def _ask(
        self, claim: Claim, gate: LaneGate, permit: Permit, started_s: float, *, is_probe: bool
    ) -> Ended:
        effect = claim.effect
        try:
            ended = await self._handlers[effect.kind].attempt(
                claim, permit=permit, deadline_s=started_s + self._config.request_timeout_s
            )
        except RelayError as error:
            settlement = settlement_of(
                error, claim, now_ms=self._clock.now_ms(), random_=self._random
            )
            if isinstance(error, LanePausedError) or _is_unauthorized(error):
                if gate.pause(error.reason, is_probe=is_probe):
                    logger.error(
                        "lane.paused",
                        extra={
                            "lane": effect.lane.value,
                            "effect": effect.key,
                            "reason": error.reason,
                            "detail": error.detail,
                            "status": getattr(error, "status", None),
                        },
                    )
            elif isinstance(error, PermanentError):
                gate.answered()
            else:
                gate.inconclusive(is_probe=is_probe)
            return Ended(settlement)
        if gate.answered():
            logger.info("lane.resumed", extra={"lane": effect.lane.value})
        return ended

    async def _account(
        self,
        claim: Claim,
        settlement: Settlement,
        result: SettleResult,
        gate: LaneGate,
        started_s: float,
    ) -> None:
        effect, outcome, reason = claim.effect, settlement.outcome, settlement.reason
        kind, metrics = effect.kind, self._metrics
        duration_s = self._clock.monotonic_s() - started_s
        self._attempts[kind, outcome].inc()
        self._attempt_seconds[kind].observe(duration_s)
        level = logging.INFO
        match outcome:
            case Outcome.APPLIED:
                now_ms = self._clock.now_ms()
                self._applied_seconds[kind].observe((now_ms - effect.received_at_ms) / 1000)
                self._last_applied.set(now_ms / 1000)
                if effect.points and result is not SettleResult.STALE:  # else counted when found
                    count_points(metrics, effect)
            case Outcome.RETRY:
                metrics.retries.labels(kind.value, reason).inc()
                if not settlement.is_round:
                    level = logging.WARNING
            case Outcome.IN_DOUBT:
                self.in_doubt.set()
                level = logging.WARNING
            case Outcome.REJECTED:
                if result is SettleResult.SETTLED:
                    metrics.dead_letters.labels("dispatcher", reason).inc()
                level = logging.ERROR
            case Outcome.HELD:
                level = logging.ERROR
            case Outcome.DUPLICATE:
                pass
        if result is SettleResult.SUSPECTED_DOUBLE:
            metrics.suspected_doubles.labels(kind.value).inc()
            level = logging.ERROR
        if result is not SettleResult.SETTLED:
            metrics.late_outcomes.labels(kind.value).inc()
        if logger.isEnabledFor(level):
            logger.log(
                level,
                "effect.attempted",
                extra={
                    "effect": effect.key,
                    "attempt": claim.attempt,
                    "outcome": outcome.value,
                    "reason": reason,
                    "status": settlement.status,
                    "detail": settlement.detail,
                    "recorded": result.value,
                    "event_id": effect.event_id,
                    "idempotency_key": effect.request.idempotency_key,
                    "trace_id": trace_id(effect.traceparent),
                    "duration_s": round(duration_s, 4),
                },
            )
        if outcome in (Outcome.APPLIED, Outcome.DUPLICATE, Outcome.REJECTED):
            await self._mind_brake(gate, rejected=outcome is Outcome.REJECTED)

    async def _mind_brake(self, gate: LaneGate, *, rejected: bool) -> None:
        why = gate.brake.note(rejected=rejected)
        if why is None or gate.braked is not None:
            return
        gate.set_brake(why)
        logger.error("lane.braked", extra={"lane": gate.lane.value, "reason": why})
        self._braking.add(gate.lane)
        while gate.lane in self._braking:
            try:
                await self._ledger.set_brake(gate.lane.value, why)
                self._braking.discard(gate.lane)
            except LedgerUnavailableError as error:
                logger.error("brake.not_recorded", extra={"reason": error.reason})
                await self._clock.sleep(_LEDGER_RETRY_S)

    def _create(self, claim: Claim, wanted: Prerequisite) -> None:
        """Create what Splio named, in its own lane; then the order is due again."""
        if len(self._creations) >= _CREATIONS or self._halt.is_set():
            return  # the order is due again by itself in a while
        task = asyncio.create_task(self._create_one(claim, wanted), name="create-prerequisite")
        self._creations.add(task)
        task.add_done_callback(self._creations.discard)
        task.add_done_callback(self._note_end)

    async def _create_one(self, claim: Claim, wanted: Prerequisite) -> None:
        effect = claim.effect
        try:
            try:
                await self._splio.create(wanted, traceparent=effect.traceparent)
            except PermanentError as error:
                # The order is attempted until its rounds are used up, and rejected then.
                _log_not_created(effect, wanted, error)
            else:
                self._step(Step.PREREQUISITE_CREATED)
            if await self._ledger.make_due(effect.key, claim.attempt):
                self._queues[effect.lane].offer([effect])
        except RelayError as error:
            # The order is due again by itself in a while and names what is missing once more.
            _log_not_created(effect, wanted, error)
            if isinstance(error, LanePausedError):
                self._metrics.retries.labels(effect.kind.value, "lane_paused").inc()


def _is_unauthorized(error: RelayError) -> bool:
    """Whether Splio refused a token that it had just given: every other request would end so."""
    return isinstance(error, RetryableError) and error.status == _UNAUTHORIZED


def _log_not_created(effect: ReadyEffect, wanted: Prerequisite, error: RelayError) -> None:
    logger.log(
        # Nobody documented it, so it does not mend itself: a key's rights, a wrong address.
        logging.ERROR if isinstance(error, LanePausedError) else logging.WARNING,
        "prerequisite.not_created",
        extra={
            "effect": effect.key,
            "kind": wanted.kind.value,
            "reason": error.reason,
            "status": getattr(error, "status", None),
        },
    )
