"""The envelope: what we put around an event, a public contract of the topics."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import orjson
from pydantic import AfterValidator, AwareDatetime, Field, TypeAdapter, ValidationError

from service.domain.errors import PoisonMessageError

SCHEMA_VERSION: Final = 1
# The current version and the one before it, once there is one.
READABLE_VERSIONS: Final = frozenset({SCHEMA_VERSION})

_UTC = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]


@dataclass(frozen=True, slots=True)
class Envelope:
    """
    An event as the log holds it.

    `event_id` was made at receipt, so that two deliveries of one event differ in it;
    `source_key` is SCAYLE's `key`, which is never used to tell deliveries apart.
    Times are in UTC; `occurred_at` is None when SCAYLE's could not be read.
    """

    event_id: Annotated[str, Field(min_length=1, max_length=64)]
    event_type: Annotated[str, Field(min_length=1, max_length=100)]
    schema_version: Annotated[int, Field(strict=True)]
    tenant: Annotated[str, Field(min_length=1)]
    occurred_at: _UTC | None
    received_at: _UTC
    source_key: str | None
    payload: Mapping[str, Any]


_adapter: Final = TypeAdapter(Envelope)


class EnvelopeWriter:
    """Encodes envelopes of one tenant around payloads that are encoded already."""

    def __init__(self, tenant: str) -> None:
        self._tenant = (
            b'","schema_version":%d,"tenant":' % SCHEMA_VERSION
            + orjson.dumps(tenant)
            + b',"occurred_at":'
        )

    def encode(
        self,
        *,
        event_id: str,
        event_type: str,
        occurred_at: datetime | None,
        received_at_ms: int,
        source_key: str | None,
        payload: bytes,
    ) -> bytes:
        """
        The envelope's JSON, with `payload` (a JSON object) copied into it as it is.

        `occurred_at` is in UTC; `event_id` and `event_type` are ours and need no escaping.
        """
        return b"".join(
            (
                b'{"event_id":"',
                event_id.encode(),
                b'","event_type":"',
                event_type.encode(),
                self._tenant,
                b'"%b"' % format_time(occurred_at).encode() if occurred_at else b"null",
                b',"received_at":"',
                format_ms(received_at_ms).encode(),
                b'","source_key":',
                orjson.dumps(source_key),
                b',"payload":',
                payload,
                b"}",
            )
        )


def read_envelope(value: bytes) -> Envelope:
    """
    The envelope of a record.

    Raises: PoisonMessageError when it is none, or of a version that this reader does not know.
    """
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError:
        raise PoisonMessageError("not_json") from None
    if not isinstance(fields, dict):
        raise PoisonMessageError("no_envelope", "not an object")
    version = fields.get("schema_version")
    if type(version) is not int or version not in READABLE_VERSIONS:
        raise PoisonMessageError("unknown_schema_version", str(version)[:20])
    try:
        return _adapter.validate_python(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join(map(str, problem["loc"]))
        raise PoisonMessageError("no_envelope", f"{path} {problem['type']}") from None
    except OverflowError:  # a time at the edge of the calendar, moved to UTC
        raise PoisonMessageError("no_envelope", "a time is out of range") from None


def format_ms(at_ms: int) -> str:
    """`2026-11-14T17:22:31.123Z` of milliseconds since the epoch."""
    return format_time(datetime.fromtimestamp(at_ms / 1000, UTC))


def format_time(moment: datetime) -> str:
    """`2026-11-14T17:22:31.123Z` of a time in UTC."""
    return f"{moment.isoformat(timespec='milliseconds')[:-6]}Z"
