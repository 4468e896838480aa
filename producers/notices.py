"""Notices as downstream services read them: JSON on the public topics, a public contract."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

import orjson
from pydantic import AfterValidator, AwareDatetime, Field, TypeAdapter, ValidationError
from pydantic.json_schema import WithJsonSchema

from producers.envelope import format_time
from service.domain.effects import SETTLED_STATES, Kind, State
from service.domain.errors import PoisonMessageError
from service.domain.notices import DeadLetterNotice, OutboxEntry, OutcomeNotice
from service.domain.records import PublicRecord, PublicTopic

SCHEMA_VERSION: Final = 1
# The current version and the one before it, once there is one.
READABLE_VERSIONS: Final = frozenset({SCHEMA_VERSION})

# The values of the header `event_type`.
OUTCOME: Final = "outcome"
DEAD_LETTER: Final = "dead-letter"

_T = TypeVar("_T")


def _settled(state: State) -> State:
    if state not in SETTLED_STATES:
        raise ValueError("not a settled state")
    return state


_Utc = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]
_Version = Annotated[
    int,
    Field(strict=True, description="Rises when a reader of the version before would be misled."),
]
_Tenant = Annotated[str, Field(description="Which Loyalty Relay; the first part of every key.")]
_Settled = Annotated[
    State,
    AfterValidator(_settled),
    WithJsonSchema({"type": "string", "enum": [state.value for state in SETTLED_STATES]}),
    Field(
        description=(
            "applied: Splio took it. duplicate: Splio had exactly this before. rejected: it was "
            "refused for good, and a dead letter tells more. void: it was never attempted."
        )
    ),
]
_KINDS: Final = ", ".join(kind.value for kind in Kind)


@dataclass(frozen=True, slots=True)
class PublishedOutcome:
    """
    An effect was settled.

    The same outcome may come more than once: tell repeats by (`effect_key`, `outcome`). A
    rejected effect that an operator plans anew is settled once more, then perhaps as applied.
    """

    schema_version: _Version
    tenant: _Tenant
    effect_key: Annotated[str, Field(description="Names the effect for good: main:earn:2345234.")]
    kind: Annotated[
        str,
        Field(
            description=(
                f"What it is: {_KINDS}. A capture (points spent) is applied when it is held; its "
                "debits take the points at Splio. Ignore kinds you do not know."
            )
        ),
    ]
    order_id: Annotated[
        str,
        Field(
            description=(
                "SCAYLE's id of the order; the record's key. Of a member a pseudonym of the "
                "customer, member-…"
            )
        ),
    ]
    outcome: _Settled
    reason: Annotated[str | None, Field(description="Why, where there is more to say; a word.")]
    points: Annotated[int, Field(description="Points that the effect is about; 0 for an order.")]
    attempt: Annotated[int, Field(description="Number of the attempt that settled it; 0: none.")]
    reference: Annotated[
        str | None,
        Field(
            description=(
                "What names it at Splio: the order's external id, or the credit's idempotency "
                "key. null where nothing was sent."
            )
        ),
    ]
    event_id: Annotated[
        str,
        Field(
            description=(
                "The event on scayle.orders.v1 it was planned by, or the call of SCAYLE Checkout."
            )
        ),
    ]
    settled_at: Annotated[_Utc, Field(description="UTC, with milliseconds.")]


@dataclass(frozen=True, slots=True)
class PublishedDeadLetter:
    """
    A record or an effect was set aside; an operator may replay or dismiss it.

    Its bytes are not here: they stay with Loyalty Relay, under `id`. The same dead letter may
    come more than once: tell repeats by (`tenant`, `id`).
    """

    schema_version: _Version
    tenant: _Tenant
    id: Annotated[int, Field(description="Names the dead letter at the operations door.")]
    kind: Annotated[str, Field(description=f"Of its effect ({_KINDS}), else event.")]
    reason: Annotated[str, Field(description="Why it was set aside; a word.")]
    effect_key: Annotated[str | None, Field(description="null when it is about a whole event.")]
    order_id: Annotated[str | None, Field(description="null when it is not known; else the key.")]
    event_id: str
    event_type: str
    topic: Annotated[
        str,
        Field(
            description=(
                "Where its record is, without any prefix; scayle.checkout.v1 is no topic and "
                "stands for a call of SCAYLE Checkout."
            )
        ),
    ]
    partition: int
    offset: int
    at: Annotated[_Utc, Field(description="When it was set aside: UTC, with milliseconds.")]


_outcome: Final = TypeAdapter(PublishedOutcome)
_dead_letter: Final = TypeAdapter(PublishedDeadLetter)


class NoticeWriter:
    """Makes the public records of one tenant's notices."""

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant

    def record(self, entry: OutboxEntry) -> PublicRecord:
        """The record that tells of `entry`; the same bytes each time."""
        match entry.notice:
            case OutcomeNotice() as notice:
                return PublicRecord(
                    PublicTopic.OUTCOMES,
                    notice.order_id,
                    _encode(self._outcome(notice)),
                    _headers(OUTCOME),
                )
            case DeadLetterNotice() as notice:
                return PublicRecord(
                    PublicTopic.DEAD_LETTERS,
                    notice.order_id,
                    _encode(self._dead_letter(notice)),
                    _headers(DEAD_LETTER),
                )

    def _outcome(self, notice: OutcomeNotice) -> PublishedOutcome:
        return PublishedOutcome(
            schema_version=SCHEMA_VERSION,
            tenant=self._tenant,
            effect_key=notice.effect_key,
            kind=notice.kind.value,
            order_id=notice.order_id,
            outcome=notice.outcome,
            reason=notice.reason,
            points=notice.points,
            attempt=notice.attempt,
            reference=notice.reference,
            event_id=notice.event_id,
            settled_at=_moment(notice.settled_at_ms),
        )

    def _dead_letter(self, notice: DeadLetterNotice) -> PublishedDeadLetter:
        return PublishedDeadLetter(
            schema_version=SCHEMA_VERSION,
            tenant=self._tenant,
            id=notice.id,
            kind=notice.kind,
            reason=notice.reason,
            effect_key=notice.effect_key,
            order_id=notice.order_id,
            event_id=notice.event_id,
            event_type=notice.event_type,
            topic=notice.topic,
            partition=notice.partition,
            offset=notice.offset,
            at=_moment(notice.at_ms),
        )


def read_outcome(value: bytes) -> PublishedOutcome:
    """
    The outcome in a record of `loyalty.outcomes.v1`; fields it does not know are passed over.

    Raises: PoisonMessageError when it is none, or of a version that this reader does not know.
    """
    return _read(_outcome, value)


def read_dead_letter(value: bytes) -> PublishedDeadLetter:
    """The dead letter in a record of `loyalty.dead-letters.v1`; as `read_outcome`."""
    return _read(_dead_letter, value)


def _read(adapter: TypeAdapter[_T], value: bytes) -> _T:
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError:
        raise PoisonMessageError("not_json") from None
    if not isinstance(fields, dict):
        raise PoisonMessageError("no_notice", "not an object")
    version = fields.get("schema_version")
    if type(version) is not int or version not in READABLE_VERSIONS:
        raise PoisonMessageError("unknown_schema_version", str(version)[:20])
    try:
        return adapter.validate_python(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join(map(str, problem["loc"]))
        raise PoisonMessageError("no_notice", f"{path} {problem['type']}") from None
    except OverflowError:  # a time at the edge of the calendar, moved to UTC
        raise PoisonMessageError("no_notice", "a time is out of range") from None


def _encode(published: PublishedOutcome | PublishedDeadLetter) -> bytes:
    # A time as it stands would be written with microseconds or without any fraction.
    return orjson.dumps(published, default=_time_text, option=orjson.OPT_PASSTHROUGH_DATETIME)


def _time_text(value: Any) -> str:
    if isinstance(value, datetime):
        return format_time(value)
    raise TypeError(f"{type(value).__name__} has no place in a notice")


def _headers(event_type: str) -> dict[str, str]:
    return {"event_type": event_type, "schema_version": str(SCHEMA_VERSION)}


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
