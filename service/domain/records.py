"""Records: an envelope as the log holds it, where it is, and where a reader goes on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Topic(StrEnum):
    """The topics of the log that intake reads, before any prefix; a public contract."""

    ORDERS = "scayle.orders.v1"
    UNREADABLE = "scayle.unreadable.v1"


class PublicTopic(StrEnum):
    """The topics that downstream services read, before any prefix; a public contract."""

    OUTCOMES = "loyalty.outcomes.v1"
    DEAD_LETTERS = "loyalty.dead-letters.v1"


class CallTopic(StrEnum):
    """What stands in a topic's place where a call of SCAYLE Checkout is kept; nobody reads it."""

    CHECKOUT = "scayle.checkout.v1"


@dataclass(frozen=True, slots=True)
class NewRecord:
    """
    A record to append. `key` is the partition key: records with one key stay in order.

    None as `key` spreads records over the partitions.
    """

    topic: Topic
    key: str | None
    value: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stream:
    """One partition of one topic: the unit within which records are in order."""

    topic: Topic | CallTopic
    partition: int

    @property
    def log_topic(self) -> Topic:
        """The topic of a stream of the log."""
        assert isinstance(self.topic, Topic), self.topic
        return self.topic


@dataclass(frozen=True, slots=True)
class Record:
    """A record as read: `offset` is where it is; the position after it is `offset + 1`."""

    stream: Stream
    offset: int
    key: str | None
    value: bytes
    headers: Mapping[str, str]
    appended_at_ms: int


@dataclass(frozen=True, slots=True)
class Advance:
    """A reader's step in one stream: from the position it had to the next offset to read."""

    stream: Stream
    from_position: int
    to_position: int


@dataclass(frozen=True, slots=True)
class PublicRecord:
    """A record for downstream services; `key` as in `NewRecord`."""

    topic: PublicTopic
    key: str | None
    value: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
