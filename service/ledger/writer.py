"""The writer: commits what concurrent callers submit, together, each operation on its own feet."""

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from service.domain.clock import Clock
from service.domain.errors import RelayError
from service.domain.ledger import PlannedRecord
from service.domain.ports import Step, StepHook
from service.domain.records import Advance
from service.ledger.claims import ClaimRequest, SettleRequest, write_claims_and_outcomes
from service.ledger.config import LedgerConfig
from service.ledger.plans import write_plans
from service.ledger.transaction import Tx, WriterMemory

_SAVEPOINT: Final = "SAVEPOINT operation"
_RELEASE: Final = "RELEASE operation"
_ROLLBACK_TO: Final = "ROLLBACK TO operation"
_LAST_ID: Final = (
    "SELECT max(coalesce((SELECT max(id) FROM records), 0), "
    "coalesce((SELECT max(id) FROM bodies), 0), coalesce((SELECT max(id) FROM attempts), 0), "
    "coalesce((SELECT max(id) FROM orders), 0))"
)
_HAS_FOLLOWERS: Final = (
    "SELECT EXISTS (SELECT 1 FROM effects WHERE state = 'blocked' AND after > '')"
)


@dataclass(frozen=True, slots=True)
class PlansRequest:
    """Plans and positions that somebody waits to see written."""

    planned: Sequence[PlannedRecord]
    advances: Sequence[Advance]


@dataclass(frozen=True, slots=True)
class Work:
    """
    Any other change; runs behind a savepoint, so that its failure is its own.

    `after_commit` is the step to report once it is committed.
    """

    run: Callable[[Tx], Any]
    after_commit: Step | None = None


Operation = PlansRequest | ClaimRequest | SettleRequest | Work


class Writer:
    """
    Carries out batches of operations on one connection, one transaction each.

    The order within a batch is free, since nobody who waits for one operation has submitted
    another that depends on it: plans, outcomes, claims, then other work, each kind together.
    """

    def __init__(
        self, connection: sqlite3.Connection, *, config: LedgerConfig, clock: Clock, step: StepHook
    ) -> None:
        self._connection = connection
        self._config = config
        self._clock = clock
        self._step = step
        self._memory = WriterMemory(
            last_id=connection.execute(_LAST_ID).fetchone()[0],
            has_followers=bool(connection.execute(_HAS_FOLLOWERS).fetchone()[0]),
        )

    def commit(self, operations: Sequence[Operation]) -> Sequence[Any]:
        """
        Carry out a batch and commit it; per operation its result or its own error.

        Raises: sqlite3.Error and bugs; nothing of the batch is written then.
        """
        connection = self._connection
        if connection.in_transaction:
            # Its rollback failed with the disk; nobody was told that it had been committed.
            connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE")
        try:
            tx = Tx(connection, self._clock.now_ms(), self._memory, self._config)
            results = self._write(tx, operations)
            self._step(Step.LEDGER_BEFORE_COMMIT)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
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
