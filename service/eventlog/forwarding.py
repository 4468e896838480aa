"""Sends records that were read to another log, many at once and yet each key's in order."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from service.domain.errors import LogUnavailableError, PermanentError
from service.domain.ports import LogWriter
from service.domain.records import NewRecord, Record


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that the target refused for good, and why."""

    record: Record
    reason: str


@dataclass(slots=True)
class Sending:
    """What became of the records of one call; `left` are those that the target did not take."""

    forwarded: list[Record] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    left: list[Record] = field(default_factory=list)
    failure: LogUnavailableError | None = None


async def send_in_order(target: LogWriter, records: Sequence[Record]) -> Sending:
    """
    Append `records` to `target`: those of one key one after the other, all keys at once.

    A record is sent only after the one before it of its key was acknowledged or refused for good.
    Once the target is away nothing more of that key is sent: it is left, in order.
    """
    chains: dict[object, deque[Record]] = {}
    for number, record in enumerate(records):
        # Records without a key have no order to keep.
        chain = number if record.key is None else (record.stream.topic, record.key)
        chains.setdefault(chain, deque()).append(record)
    sending = Sending()
    async with asyncio.TaskGroup() as tasks:
        for each in chains.values():
            tasks.create_task(_send_chain(target, each, sending), name="forwarding")
    sending.left = [record for chain in chains.values() for record in chain]
    return sending


async def _send_chain(target: LogWriter, chain: deque[Record], sending: Sending) -> None:
    while chain:
        record = chain[0]
        try:
            await target.append(
                NewRecord(record.stream.log_topic, record.key, record.value, record.headers)
            )
        except PermanentError as error:
            sending.refused.append(Refusal(record, error.reason))
        except LogUnavailableError as error:
            sending.failure = error
            return
        else:
            sending.forwarded.append(record)
        chain.popleft()
