"""Looking up what is in doubt: Splio is asked before anything is sent again."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Mapping
from typing import Final, Protocol

from consumers.backoff import backoff_s
from consumers.duties import Duty
from consumers.handlers import Handler, count_points
from consumers.stopping import first_of, set_within
from service.domain.clock import Clock
from service.domain.effects import EffectKey, Kind
from service.domain.errors import (
    LedgerUnavailableError,
    NotFoundError,
    RelayError,
    WrongStateError,
)
from service.domain.ledger import Doubt, DoubtLedger, LookUp, LookUpVerdict, OperatorLedger
from service.domain.ports import Step, StepHook
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import trace_id

_EVERY_S: Final = 1.0
_BATCH: Final = 64
_CONCURRENCY: Final = 4  # look-ups share the lanes with bookings; few at a time keep them modest
_FORGET_S: Final = 3_600.0  # a doubt not asked about for so long begins its backoff anew

logger = logging.getLogger("relay.look_up")


class LookUpLedger(DoubtLedger, OperatorLedger, Protocol):
    """The parts of the ledger that looking up uses."""


class LookUps:
    """
    The worker that looks up, in one of all processes on the ledger. It also puts effects whose
    lease ran out in doubt.

    Found counts at any time; absence only after Splio had time to show it. What Splio does not
    answer is asked again later, for as long as it takes: nothing is assumed.
    """

    name = "look_up"

    def __init__(
        self,
        ledger: LookUpLedger,
        handlers: Mapping[Kind, Handler],
        *,
        in_doubt: asyncio.Event,
        duty: Duty,
        clock: Clock,
        metrics: Metrics,
        step: StepHook,
        random_: random.Random,
    ) -> None:
        self._ledger = ledger
        self._handlers = handlers
        self._in_doubt = in_doubt
        self._duty = duty
        self._clock = clock
        self._metrics = metrics
        self._step = step
        self._random = random_
        self._unanswered: Counter[EffectKey] = Counter()
        self._forget_at_s = clock.monotonic_s() + _FORGET_S

    async def run(self, stop: asyncio.Event) -> None:
        """Look up until `stop`. A look-up that is cut off leaves its effect in doubt."""
        while not stop.is_set():
            self._in_doubt.clear()
            await first_of(stop, self._round())
            await first_of(stop, self._wait())

    async def look_up_now(self, key: EffectKey) -> LookUpVerdict:
        """
        Look `key` up at once, on an operator's word.

        Raises: NotFoundError; WrongStateError when it is not in doubt; the errors of Splio.
        """
        doubt = await self._ledger.doubt(key)
        if doubt is None:
            effect = await self._ledger.show_effect(key)
            raise WrongStateError("not_in_doubt", f"{key} is {effect['state']}")
        look_up = await self._handlers[doubt.effect.kind].look_up(doubt)
        await self._write(doubt, look_up)
        return look_up.verdict

    async def _wait(self) -> None:
        await set_within(self._in_doubt, self._clock, _EVERY_S)

    async def _round(self) -> None:
        if self._clock.monotonic_s() > self._forget_at_s:
            self._unanswered.clear()
            self._forget_at_s = self._clock.monotonic_s() + _FORGET_S
        try:
            if not await self._duty.held():
                return
            expired = await self._ledger.expire_leases()
            if expired:
                logger.warning("leases.expired", extra={"count": expired})
            doubts = await self._ledger.doubts(limit=_BATCH)
        except LedgerUnavailableError as error:
            logger.warning("doubts.not_read", extra={"reason": error.reason})
            return
        limit = asyncio.Semaphore(_CONCURRENCY)

        async def one(doubt: Doubt) -> None:
            async with limit:
                await self._resolve(doubt)

        async with asyncio.TaskGroup() as group:
            for doubt in doubts:
                group.create_task(one(doubt), name="look-up")

    async def _resolve(self, doubt: Doubt) -> None:
        key = doubt.effect.key
        try:
            look_up = await self._handlers[doubt.effect.kind].look_up(doubt)
        except RelayError as error:
            self._unanswered[key] += 1
            wait_s = backoff_s(self._unanswered[key], self._random.random())
            look_up = LookUp(
                LookUpVerdict.UNKNOWN,
                reason=error.reason,
                detail=error.detail,
                again_at_ms=self._clock.now_ms() + int(wait_s * 1000),
            )
        else:
            self._unanswered.pop(key, None)
        self._step(Step.LOOK_UP_ANSWERED)
        try:
            await self._write(doubt, look_up)
        except (LedgerUnavailableError, NotFoundError, WrongStateError) as error:
            logger.warning("look_up.not_recorded", extra={"effect": key, "reason": error.reason})
            return
        self._step(Step.LOOK_UP_RECORDED)

    async def _write(self, doubt: Doubt, look_up: LookUp) -> None:
        effect, verdict = doubt.effect, look_up.verdict
        state = await self._ledger.record_look_up(doubt, look_up)
        self._metrics.look_ups.labels(effect.kind.value, verdict.value).inc()
        is_double = look_up.reason == "double"
        if is_double:
            self._metrics.suspected_doubles.labels(effect.kind.value).inc()
        if verdict is LookUpVerdict.FOUND and effect.points and state is not None:
            count_points(self._metrics, effect)
        if verdict is LookUpVerdict.DIFFERENT and state is not None:
            self._metrics.dead_letters.labels("dispatcher", "mismatch").inc()
        settled_badly = verdict in (LookUpVerdict.DIFFERENT, LookUpVerdict.HOLD)
        logger.log(
            logging.ERROR if settled_badly or is_double else logging.INFO,
            "effect.looked_up",
            extra={
                "effect": effect.key,
                "attempt": doubt.attempt,
                "outcome": verdict.value,
                "reason": look_up.reason,
                "detail": look_up.detail,
                "state": state.value if state else "moved",
                "event_id": effect.event_id,
                "trace_id": trace_id(effect.traceparent),
            },
        )
