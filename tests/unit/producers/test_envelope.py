"""The envelope: written by concatenation, read strictly, readable for ever."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.envelope import (
    READABLE_VERSIONS,
    SCHEMA_VERSION,
    EnvelopeWriter,
    format_ms,
    format_time,
    read_envelope,
)
from service.domain.errors import PoisonMessageError
from service.domain.events import LoyaltyCard
from service.scayle.decode import decode_event

FIXTURES = Path(__file__).parents[2] / "fixtures" / "envelopes"


def golden(version: int) -> bytes:
    return (FIXTURES / f"order-confirmed.v{version}.json").read_bytes().rstrip(b"\n")


def written() -> bytes:
    fields = orjson.loads(golden(SCHEMA_VERSION))
    return EnvelopeWriter("main").encode(
        event_id="01998a2f-7c1d-7000-8f3a-0d5b2c9e4a61",
        event_type="order-confirmed",
        occurred_at=datetime(2026, 9, 21, 6, 4, 31, tzinfo=UTC),
        received_at_ms=1_789_970_672_250,
        source_key="9f1d2c34-order-confirmed-10000001",
        payload=orjson.dumps(fields["payload"]),
    )


def test_writer_still_writes_the_golden_bytes() -> None:
    """A change here is a new schema version, with a new golden file beside the old one."""
    assert written() == golden(SCHEMA_VERSION)


@pytest.mark.parametrize("version", sorted(READABLE_VERSIONS))
def test_golden_envelopes_of_readable_versions_are_read_and_decoded(version: int) -> None:
    envelope = read_envelope(golden(version))
    assert envelope.schema_version == version
    assert envelope.tenant == "main"
    assert envelope.event_id == "01998a2f-7c1d-7000-8f3a-0d5b2c9e4a61"
    assert envelope.source_key == "9f1d2c34-order-confirmed-10000001"
    assert envelope.occurred_at == datetime(2026, 9, 21, 6, 4, 31, tzinfo=UTC)
    assert envelope.received_at == datetime(2026, 9, 21, 6, 4, 32, 250_000, tzinfo=UTC)
    order = decode_event(
        envelope.event_type,
        envelope.payload,
        occurred_at=envelope.occurred_at,
        received_at=envelope.received_at,
    )
    assert order.order_id == "10000001"
    assert order.card == LoyaltyCard("6010000000017", 189, "club")
    assert [item.amount_minor for item in order.items] == [4500, 1800]


@given(
    source_key=st.none() | st.text(st.characters(codec="utf-8"), max_size=50),
    tenant=st.text(st.characters(codec="utf-8"), min_size=1, max_size=10),
    payload=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), st.integers(0, 9)),
    received_at_ms=st.integers(0, 4_000_000_000_000),
    occurred_at=st.none() | st.timedeltas(timedelta(0), timedelta(days=80_000)),
)
def test_what_is_written_is_read_back(
    source_key: str | None,
    tenant: str,
    payload: dict[str, int],
    received_at_ms: int,
    occurred_at: timedelta | None,
) -> None:
    moment = None if occurred_at is None else datetime(1970, 1, 1, tzinfo=UTC) + occurred_at
    envelope = read_envelope(
        EnvelopeWriter(tenant).encode(
            event_id="01998a2f-7c1d-7000-8f3a-0d5b2c9e4a61",
            event_type="order-confirmed",
            occurred_at=moment,
            received_at_ms=received_at_ms,
            source_key=source_key,
            payload=orjson.dumps(payload),
        )
    )
    assert (envelope.tenant, envelope.source_key, envelope.payload) == (
        tenant,
        source_key,
        payload,
    )
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert envelope.received_at == epoch + timedelta(milliseconds=received_at_ms)
    if moment is None:
        assert envelope.occurred_at is None
    else:
        assert envelope.occurred_at is not None
        assert timedelta(0) <= moment - envelope.occurred_at < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "not_json"),
        (b"\xff", "not_json"),
        (b"{", "not_json"),
        (b"[]", "no_envelope"),
        (b"null", "no_envelope"),
        (b"{}", "unknown_schema_version"),
    ],
)
def test_what_is_no_envelope_is_poison(value: bytes, reason: str) -> None:
    with pytest.raises(PoisonMessageError) as caught:
        read_envelope(value)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema_version": 2}, "unknown_schema_version"),
        ({"schema_version": "1"}, "unknown_schema_version"),
        ({"schema_version": True}, "unknown_schema_version"),
        ({"event_id": None}, "no_envelope"),
        ({"event_type": ""}, "no_envelope"),
        ({"payload": []}, "no_envelope"),
        ({"received_at": "2026-09-21T06:04:32.250"}, "no_envelope"),
        ({"received_at": "0001-01-01T00:00:00+14:00"}, "no_envelope"),
        ({"tenant": ""}, "no_envelope"),
    ],
)
def test_envelope_that_does_not_fit_is_poison(changes: dict[str, Any], reason: str) -> None:
    fields = orjson.loads(golden(SCHEMA_VERSION)) | changes
    with pytest.raises(PoisonMessageError) as caught:
        read_envelope(orjson.dumps(fields))
    assert caught.value.reason == reason


def test_times_are_written_in_utc_with_milliseconds() -> None:
    assert format_ms(1_789_970_672_250) == "2026-09-21T06:04:32.250Z"
    assert format_ms(1_789_970_672_009) == "2026-09-21T06:04:32.009Z"
    east = datetime(2026, 9, 21, 8, 4, 32, tzinfo=timezone(timedelta(hours=2)))
    assert format_time(east.astimezone(UTC)) == "2026-09-21T06:04:32.000Z"
