"""The AsyncAPI document is valid, committed, and true of every value that the producers write."""

import os
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, get_type_hints

import jsonschema_rs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from producers.envelope import Envelope
from producers.events import EventPublisher
from producers.notices import NoticeWriter, PublishedDeadLetter, PublishedOutcome
from service.domain.notices import Notice, OutboxEntry
from service.domain.records import NewRecord, PublicRecord, PublicTopic, Topic
from service.sandbox.scayle import generate_orders, respell
from service.scayle.webhook import Order, UsedWebhook, read_webhook
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import new_traceparent
from service.web.asyncapi import asyncapi_document
from tests.fakes.clock import FakeClock
from tests.fakes.log_writer import FakeLogWriter
from tests.fakes.scayle_bodies import order_confirmed
from tests.unit.builders import make_dead_letter_notice, make_outcome
from tests.unit.producers.notices import dead_letters, outcomes
from tests.unit.scayle.test_webhook_properties import PATHS, anything

COMMITTED: Final = Path(__file__).parents[3] / "deploy" / "asyncapi.json"
ASYNCAPI: Final = Path(__file__).parents[2] / "fixtures" / "asyncapi" / "3.0.0.json"
REFRESH: Final = "RELAY_REFRESH"  # set: the committed file is written anew

DOCUMENT: Final[dict[str, Any]] = orjson.loads(asyncapi_document())
CHANNELS: Final = {channel["address"]: channel for channel in DOCUMENT["channels"].values()}


def resolve(part: dict[str, Any]) -> dict[str, Any]:
    """What a `$ref` of the document points at."""
    while "$ref" in part:
        place: Any = DOCUMENT
        for name in part["$ref"].removeprefix("#/").split("/"):
            place = place[name]
        part = place
    return part


def message_of(topic: str) -> dict[str, Any]:
    (message,) = CHANNELS[topic]["messages"].values()
    return resolve(message)


def validator(schema: dict[str, Any]) -> jsonschema_rs.Draft7Validator:
    """Draft 7 is what AsyncAPI's own schemas are a superset of."""
    whole = {**deepcopy(schema), "components": DOCUMENT["components"]}
    return jsonschema_rs.Draft7Validator(whole, validate_formats=True)


PAYLOADS: Final = {topic: validator(message_of(topic)["payload"]) for topic in CHANNELS}
HEADERS: Final = {topic: validator(message_of(topic)["headers"]) for topic in CHANNELS}


def closed(name: str) -> jsonschema_rs.Draft7Validator:
    """A schema of the document, and all it refers to, that takes no field it does not name."""
    components = deepcopy(DOCUMENT["components"])
    for schema in components["schemas"].values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    return jsonschema_rs.Draft7Validator(
        {"$ref": f"#/components/schemas/{name}", "components": components}, validate_formats=True
    )


CLOSED: Final = {
    model.__name__: closed(model.__name__)
    for model in (Envelope, Order, PublishedOutcome, PublishedDeadLetter)
}


def assert_described(record: NewRecord | PublicRecord) -> dict[str, Any]:
    """Value, headers and key of `record` are as the document says; returns the value."""
    topic = record.topic.value
    value: dict[str, Any] = orjson.loads(record.value)
    PAYLOADS[topic].validate(value)
    HEADERS[topic].validate(dict(record.headers))
    assert set(record.headers) <= set(message_of(topic)["headers"]["properties"])
    validator(message_of(topic)["bindings"]["kafka"]["key"]).validate(record.key)
    return value


def test_committed_document_is_that_of_the_code() -> None:
    if os.environ.get(REFRESH):
        COMMITTED.write_bytes(asyncapi_document())
    assert COMMITTED.read_bytes() == asyncapi_document(), (
        f"a public contract changed; if that is meant: {REFRESH}=1 pytest {Path(__file__).name}"
    )


def test_document_is_valid_asyncapi() -> None:
    schema = orjson.loads(ASYNCAPI.read_bytes())
    jsonschema_rs.Draft7Validator(schema).validate(DOCUMENT)


def test_every_topic_is_described() -> None:
    assert set(CHANNELS) == {topic.value for topic in [*Topic, *PublicTopic]}


def test_document_refers_only_to_what_it_holds() -> None:
    found = list(references(DOCUMENT))
    assert found
    for reference in found:
        resolve({"$ref": reference})


def references(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if "$ref" in part else []
        return own + [text for value in part.values() for text in references(value)]
    if isinstance(part, list):
        return [text for value in part for text in references(value)]
    return []


@pytest.mark.parametrize("topic", CHANNELS)
def test_examples_are_as_their_schemas_say(topic: str) -> None:
    message = message_of(topic)
    assert message["examples"]
    for example in message["examples"]:
        PAYLOADS[topic].validate(example["payload"])
        HEADERS[topic].validate(example["headers"])


@pytest.mark.parametrize("model", [Envelope, PublishedOutcome, PublishedDeadLetter])
def test_document_names_every_field_of_a_record(model: type[Any]) -> None:
    schema = DOCUMENT["components"]["schemas"][model.__name__]
    names = [field.name for field in fields(model)]
    assert list(schema["properties"]) == names
    assert schema["required"] == names


def test_document_names_every_field_of_an_order() -> None:
    schema = DOCUMENT["components"]["schemas"][Order.__name__]
    assert set(schema["properties"]) == set(get_type_hints(Order))


def test_only_topics_of_scayle_hold_personal_data() -> None:
    """P7."""
    tagged = {
        address
        for address, channel in CHANNELS.items()
        if "personal-data" in [tag["name"] for tag in channel.get("tags", [])]
    }
    assert tagged == {topic.value for topic in Topic}


async def published(webhook: UsedWebhook) -> NewRecord:
    """The record that the producers write for a webhook."""
    log = FakeLogWriter()
    publisher = EventPublisher(
        log, metrics=Metrics(CollectorRegistry()), tenant="main", clock=FakeClock()
    )
    await publisher.publish_event(
        event_type=webhook.event_type,
        order_id=webhook.order_id,
        occurred_at=webhook.occurred_at,
        source_key=webhook.source_key,
        payload=webhook.payload,
        traceparent=new_traceparent(),
    )
    (record,) = log.records
    return record


async def assert_event_described(body: dict[str, Any]) -> None:
    webhook = read_webhook(orjson.dumps(body))
    if isinstance(webhook, UsedWebhook):
        value = assert_described(await published(webhook))
        CLOSED[Order.__name__].validate(value["payload"])
        CLOSED[Envelope.__name__].validate(value)


async def test_every_order_of_the_sandbox_is_described() -> None:
    orders = list(generate_orders(7, 150, currencies=("EUR", "JPY")))
    for order in [order_confirmed(), *orders, *map(respell, orders)]:
        assert isinstance(read_webhook(orjson.dumps(order)), UsedWebhook)
        await assert_event_described(order)


@given(st.sampled_from(PATHS), anything)
async def test_every_order_that_is_taken_is_described(path: str, value: Any) -> None:
    """Whatever SCAYLE writes, what reaches the log is as the document says."""
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return
    try:
        body = order_confirmed({path: value})
    except (KeyError, IndexError, TypeError):
        return
    if body.get("type") == "order-confirmed":
        await assert_event_described(body)


async def test_every_unreadable_body_is_described() -> None:
    log = FakeLogWriter()
    publisher = EventPublisher(
        log, metrics=Metrics(CollectorRegistry()), tenant="main", clock=FakeClock()
    )
    await publisher.publish_unreadable(
        b"{", event_type="order-confirmed", reason="payload missing", traceparent=new_traceparent()
    )
    (record,) = log.records
    message = message_of(Topic.UNREADABLE)
    HEADERS[Topic.UNREADABLE].validate(dict(record.headers))
    assert set(record.headers) == set(message["headers"]["properties"])
    assert record.key is None and "key" not in message["bindings"]["kafka"]


def assert_notice_described(notice: Notice, model: type[Any]) -> None:
    value = assert_described(NoticeWriter("main").record(OutboxEntry(1, notice)))
    CLOSED[model.__name__].validate(value)


@given(outcomes)
def test_every_outcome_is_described(notice: Notice) -> None:
    assert_notice_described(notice, PublishedOutcome)


@given(dead_letters)
def test_every_dead_letter_is_described(notice: Notice) -> None:
    assert_notice_described(notice, PublishedDeadLetter)


@pytest.mark.parametrize(
    ("notice", "model"),
    [(make_outcome(), PublishedOutcome), (make_dead_letter_notice(), PublishedDeadLetter)],
)
def test_a_field_that_is_not_described_would_be_noticed(notice: Notice, model: type[Any]) -> None:
    """That the tests above can fail."""
    value = orjson.loads(NoticeWriter("main").record(OutboxEntry(1, notice)).value)
    assert CLOSED[model.__name__].is_valid(value)
    assert not CLOSED[model.__name__].is_valid({**value, "colour": "red"})
