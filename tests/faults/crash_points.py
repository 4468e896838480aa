"""Where each labelled step exists, and how often a run surely gets to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from service.domain.ports import Step
from service.sandbox.faults import FaultRule
from tests.harness.crash import LOST_REPLIES
from tests.harness.place import Stores

_ANYWHERE: Final = frozenset(Stores)
_FILE_LOG: Final = frozenset(each for each in Stores if each.log == "sqlite")
_KAFKA: Final = frozenset(each for each in Stores if each.log == "kafka")


@dataclass(frozen=True, slots=True)
class Point:
    """
    One step in the matrix.

    Args:
        stores: with which of them it exists.
        lowest, highest: a process that carries thirty orders alone surely gets there so often,
            and dies at one of these times.
        faults, settings: what is needed to get there.
        is_in_outage: gets there only when the broker was away.
        pays: points are spent meanwhile in the quick half; not where no call comes by.
    """

    stores: frozenset[Stores]
    lowest: int
    highest: int
    faults: Sequence[FaultRule] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    is_in_outage: bool = False
    pays: bool = True

    def counts(self, stores: Stores) -> tuple[int, int]:
        """Of two processes that share the work one does at least half of it."""
        share = 2 if stores is Stores.SERVERS else 1
        return max(1, self.lowest // share), max(1, self.highest // share)


# A step that is missing here fails `test_every_step_is_in_the_matrix`.
POINTS: Final[Mapping[Step, Point]] = {
    Step.WEBHOOK_READ: Point(_ANYWHERE, 5, 30, pays=False),
    Step.WEBHOOK_PUBLISHED: Point(_ANYWHERE, 5, 30, pays=False),
    # On Kafka: before a record is handed to the producer, after it was acknowledged.
    Step.LOG_BEFORE_COMMIT: Point(_ANYWHERE, 2, 6, pays=False),
    Step.LOG_AFTER_COMMIT: Point(_ANYWHERE, 2, 6, pays=False),
    Step.LOG_TRIMMED: Point(_FILE_LOG, 1, 2, pays=False),
    # What was spooled goes out as one batch.
    Step.SPOOL_APPENDED: Point(_KAFKA, 4, 15, is_in_outage=True, pays=False),
    Step.SPOOL_FORWARDED: Point(_KAFKA, 1, 1, is_in_outage=True, pays=False),
    Step.SPOOL_ACKNOWLEDGED: Point(_KAFKA, 1, 1, is_in_outage=True, pays=False),
    Step.SPOOL_LEFT: Point(_KAFKA, 1, 1, is_in_outage=True, pays=False),
    Step.RECORDS_FETCHED: Point(_ANYWHERE, 2, 5),
    Step.RECORDS_PLANNED: Point(_ANYWHERE, 2, 5),
    Step.PLANS_COMMITTED: Point(_ANYWHERE, 2, 5),
    Step.LEDGER_BEFORE_COMMIT: Point(_ANYWHERE, 10, 60),
    Step.LEDGER_AFTER_COMMIT: Point(_ANYWHERE, 10, 60),
    Step.PERMIT_TAKEN: Point(_ANYWHERE, 10, 60),
    Step.EFFECT_CLAIMED: Point(_ANYWHERE, 10, 60),
    Step.REQUEST_STARTED: Point(_ANYWHERE, 10, 60),
    Step.REQUEST_SENT: Point(_ANYWHERE, 10, 60),
    Step.REPLY_RECEIVED: Point(_ANYWHERE, 10, 60),
    Step.ATTEMPT_ENDED: Point(_ANYWHERE, 10, 60),
    Step.OUTCOME_RECORDED: Point(_ANYWHERE, 10, 60),
    Step.PREREQUISITE_CREATED: Point(_ANYWHERE, 2, 12),
    Step.LOOK_UP_ANSWERED: Point(_ANYWHERE, 1, 4, faults=LOST_REPLIES),
    Step.LOOK_UP_RECORDED: Point(_ANYWHERE, 1, 4, faults=LOST_REPLIES),
    Step.CREDITS_SEEN: Point(_ANYWHERE, 1, 4),
    # A second has passed before it is looked at again, and all may be settled by then.
    Step.OUTBOX_READ: Point(_KAFKA, 1, 1, pays=False),
    Step.OUTBOX_PUBLISHED: Point(_KAFKA, 1, 1, pays=False),
    Step.OUTBOX_REMOVED: Point(_KAFKA, 1, 1, pays=False),
    Step.LEDGER_PURGED: Point(_ANYWHERE, 2, 8, settings={"RELAY_RETENTION": "1s"}),
    # One process of the two takes the calls.
    Step.CALL_RECORDED: Point(_ANYWHERE, 5, 30),
    Step.BALANCE_RECORDED: Point(_ANYWHERE, 2, 10),
}


def steps_with(stores: Stores) -> list[Step]:
    """The steps that exist with `stores`; those in which the broker is away come last."""
    steps = [step for step in Step if stores in POINTS[step].stores]
    return sorted(steps, key=lambda step: POINTS[step].is_in_outage)
