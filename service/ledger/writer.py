"""The writer: commits what concurrent callers submit, together, each operation on its own feet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from service.domain.errors import PermanentError, RelayError
from service.domain.ledger import PlannedRecord
from service.domain.ports import Step, StepHook
from service.domain.records import Advance
from service.group_commit import StorageError
from service.ledger.claims import ClaimRequest, SettleRequest, write_claims_and_outcomes
from service.ledger.config import LedgerConfig
from service.ledger.database import Connection
from service.ledger.plans import write_plans
from service.ledger.transaction import Tx, WriterMemory

_SAVEPOINT: Final = "SAVEPOINT operation"
_RELEASE: Final = "RELEASE operation"
_ROLLBACK_TO: Final = "ROLLBACK TO operation"
_MOST_TRIES: Final = 20  # of a batch that other processes come in between of


@dataclass(frozen=True, slots=True)
class PlansRequest:
    """Plans and positions that somebody waits to see written."""

    planned: Sequence[PlannedRecord]
    advances: Sequence[Advance]


@dataclass(frozen=True, slots=True)
class Work:
    """
    Any other change; runs behind a savepoint, so that its failure is its own.

    `after_commit` is the step to report once it is committed. `plans_alone`: it asks that no other
    process plans.
    """

    run: Callable[[Tx], Any]
    after_commit: Step | None = None
    plans_alone: bool = False


Operation = PlansRequest | ClaimRequest | SettleRequest | Work


class WriterConnection(Connection, Protocol):
    """The one connection that writes, with its transactions."""

    @property
    def memory(self) -> WriterMemory: ...

    def begin(self) -> int:
        """
        Begin a transaction, after giving up one whose end failed; returns the time, in
        milliseconds since the epoch, by the clock that leases go by.
        """
        ...

    def commit(self) -> None: ...

    def roll_back(self) -> None:
        """Give the transaction up. Never raises the driver's errors."""
        ...

    def is_not_storable(self, error: Exception) -> bool:
        """Whether a value was refused for what it is: the same again would end the same."""
        ...

    def is_concurrent_change(self, error: Exception) -> bool:
        """Whether the transaction failed for what another one did, and may be carried out again."""
        ...


class Writer:
    """
    Carries out batches of operations on one connection, one transaction each.

    The order within a batch is free, since nobody who waits for one operation has submitted
    another that depends on it: plans, outcomes, claims, then other work, each kind together.
    """

    def __init__(
        self, connection: WriterConnection, *, config: LedgerConfig, step: StepHook
    ) -> None:
        self._connection = connection
        self._config = config
        self._step = step

    def commit(self, operations: Sequence[Operation]) -> Sequence[Any]:
        """
        Carry out a batch and commit it; per operation its result or its own error.

        Raises: the driver's errors and bugs. Nothing of the batch is written then, unless the
        connection broke while it was committed; each operation can be carried out again.
        """
        for _ in range(_MOST_TRIES):
            try:
                return self._commit(operations)
            except Exception as error:
                if self._connection.is_not_storable(error):
                    return self._commit_apart(operations, error)
                if not self._connection.is_concurrent_change(error):
                    raise
        raise StorageError("busy", "other processes came in between again and again")

    def _commit_apart(self, operations: Sequence[Operation], error: Exception) -> Sequence[Any]:
        """One of them holds a value that the database takes in no case; the others are fine."""
        if len(operations) == 1:
            return [PermanentError("not_storable", type(error).__name__)]
        return [result for operation in operations for result in self.commit([operation])]

    def _commit(self, operations: Sequence[Operation]) -> Sequence[Any]:
        connection = self._connection
        now_ms = connection.begin()
        try:
            tx = Tx(connection, now_ms, connection.memory, self._config)
            results = self._write(tx, operations)
            tx.check()
            self._step(Step.LEDGER_BEFORE_COMMIT)
            connection.commit()
        except BaseException:
            connection.roll_back()
            raise
        self._step(Step.LEDGER_AFTER_COMMIT)
        for operation in operations:
            if isinstance(operation, Work) and operation.after_commit is not None:
                self._step(operation.after_commit)
        return results

    def _write(self, tx: Tx, operations: Sequence[Operation]) -> Sequence[Any]:
        results: list[Any] = [None] * len(operations)
        claims: list[tuple[int, ClaimRequest]] = []
        outcomes: list[tuple[int, SettleRequest]] = []
        works: list[tuple[int, Work]] = []
        if any(map(_plans_alone, operations)):
            # Before anything else is locked: two processes that each have what the other one
            # waits for would stand still until the server ends one of them.
            tx.plan_alone()
        for index, operation in enumerate(operations):
            if isinstance(operation, ClaimRequest):
                claims.append((index, operation))
            elif isinstance(operation, SettleRequest):
                outcomes.append((index, operation))
            elif isinstance(operation, Work):
                works.append((index, operation))
            else:
                results[index] = _plan(tx, operation)
        if claims or outcomes:
            taken, settled = write_claims_and_outcomes(
                tx,
                [operation for _, operation in claims],
                [operation for _, operation in outcomes],
            )
            for (index, _), claim in zip(claims, taken, strict=True):
                results[index] = claim
            for (index, _), result in zip(outcomes, settled, strict=True):
                results[index] = result
        for index, work in works:
            results[index] = _work(tx, work)
        return results


def _plans_alone(operation: Operation) -> bool:
    match operation:
        case Work():
            return operation.plans_alone
        case PlansRequest():
            return any(planned.plan.earn is not None for planned in operation.planned)
        case _:
            return False


def _plan(tx: Tx, operation: PlansRequest) -> object:
    try:
        return write_plans(tx, operation.planned, operation.advances)
    except RelayError as error:
        # Raised before anything of the plan was written.
        return error


def _work(tx: Tx, work: Work) -> object:
    tx.connection.execute(_SAVEPOINT)
    try:
        result = work.run(tx)
    except RelayError as error:
        tx.connection.execute(_ROLLBACK_TO)
        tx.connection.execute(_RELEASE)
        return error
    tx.connection.execute(_RELEASE)
    return result
