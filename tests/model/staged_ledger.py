"""A ledger on the stage: what it does is watched, and it can fail or die with its process."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from service.domain.errors import LedgerUnavailableError
from service.domain.ledger import Ledger
from service.domain.ports import Step
from tests.model.stage import Stage, Turn

# Concurrent calls of these may be committed together.
_SHARING: Final = frozenset({"claim", "settle", "make_due", "record_look_up", "record_plans"})
# The dispatcher and the look-ups live with a ledger that is away for a while.
_MAY_FAIL: Final = frozenset(
    {"ready", "claim", "settle", "make_due", "expire_leases", "doubts", "record_look_up"}
)


class Crashed(Exception):
    """The process dies at a labelled step."""


@dataclass(slots=True, eq=False)
class Operation:
    """One call of a method; `is_lost` when the process died before it knew what came of it."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any = None
    error: Exception | None = None

    @property
    def is_lost(self) -> bool:
        return isinstance(self.error, Crashed)


@dataclass
class StagedLedger:
    """
    Stands before the ledger of one process. `watch` sees every group of operations that was
    committed together, before their callers go on.

    The next `failing` operations that may fail do. At the step `dies_at` the process dies:
    from then on nothing comes through.
    """

    stage: Stage
    watch: Callable[[list[Operation]], Awaitable[None]]
    real: Ledger | None = None
    failing: int = 0
    dies_at: Step | None = None
    is_dead: bool = False
    lost: list[Operation] = field(default_factory=list)
    _finished: dict[int, list[Operation]] = field(default_factory=dict)
    _watched: dict[int, asyncio.Event] = field(default_factory=dict)

    def step(self, step: Step) -> None:
        """The hook of every labelled step, also on the ledger's thread."""
        if step is self.dies_at and not self.is_dead:
            self.is_dead = True
            raise Crashed(step)

    async def alive(self) -> None:
        """Return if the process lives; wait for ever if it is dead."""
        if self.is_dead:
            await asyncio.get_running_loop().create_future()

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        method = getattr(self.real, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            await self.alive()
            if self.failing and name in _MAY_FAIL:
                self.failing -= 1
                raise LedgerUnavailableError("not_committed", "the model's disk is full")
            group = await self.stage.turn(may_share=name in _SHARING)
            if self.is_dead:
                self.stage.turn_over()
                await self.alive()
            operation = Operation(name, args, kwargs)
            try:
                operation.result = await method(*args, **kwargs)
            except Exception as error:  # noqa: BLE001  raised again below
                operation.error = error
            await self._finish(operation, group)
            if operation.error is not None:
                raise operation.error
            return operation.result

        return call

    async def _finish(self, operation: Operation, group: list[Turn]) -> None:
        """The last one of a group has it watched; the others wait for that."""
        finished = self._finished.setdefault(id(group), [])
        finished.append(operation)
        watched = self._watched.setdefault(id(group), asyncio.Event())
        if len(finished) < len(group):
            await watched.wait()
        else:
            del self._finished[id(group)], self._watched[id(group)]
            if any(each.is_lost for each in finished):
                self.lost += finished
            else:
                await self.watch(finished)
            watched.set()
        self.stage.turn_over()
