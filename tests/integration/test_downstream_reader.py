"""The reader that the README gives to downstream teams does what it says, on a real broker."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from producers.notices import NoticeWriter
from service.domain.effects import Kind, State
from service.domain.notices import OutboxEntry, OutcomeNotice
from service.domain.records import PublicTopic
from tests.harness.kafka_server import KafkaServer
from tests.unit.builders import make_outcome

README = Path(__file__).parents[2] / "README.md"
TIME_LIMIT_S = 60.0


def block() -> str:
    """The code between the README's markers."""
    found = re.search(
        r"<!-- downstream -->\n```python\n(.*?)```\n<!-- /downstream -->",
        README.read_text(),
        re.DOTALL,
    )
    assert found is not None
    return found[1]


class Topic:
    """The outcomes topic under a prefix of its own."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.prefix = f"downstream-{uuid4().hex[:8]}."
        self.name = self.prefix + PublicTopic.OUTCOMES.value

    async def create(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(self.name, num_partitions=3, replication_factor=1)])
        finally:
            await admin.close()

    async def publish(self, notices: Sequence[OutcomeNotice]) -> None:
        writer = NoticeWriter("main")
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap) as producer:
            for number, notice in enumerate(notices):
                record = writer.record(OutboxEntry(number, notice))
                assert record.key is not None
                await producer.send_and_wait(
                    self.name,
                    record.value,
                    key=record.key.encode(),
                    headers=[(name, text.encode()) for name, text in record.headers.items()],
                )

    @asynccontextmanager
    async def reader(self, folder: Path) -> AsyncIterator[asyncio.StreamReader]:
        """The README's code as a process of its own, killed afterwards; its output."""
        code = folder / "reader.py"
        code.write_text(block())
        # aiokafka tells there of a coordinator that is not chosen yet.
        with (folder / "reader.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(code),
                cwd=folder,
                env={**os.environ, "KAFKA_BOOTSTRAP": self.bootstrap, "TOPIC_PREFIX": self.prefix},
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()
            await process.wait()


async def read_lines(output: asyncio.StreamReader, count: int) -> list[str]:
    async with asyncio.timeout(TIME_LIMIT_S):
        return [(await output.readline()).decode().strip() for _ in range(count)]


def test_the_readers_code_compiles_and_is_short() -> None:
    compile(block(), "README.md", "exec", dont_inherit=True)
    assert len(block().splitlines()) <= 50


async def test_the_reader_counts_each_outcome_once(
    kafka_server: KafkaServer, tmp_path: Path
) -> None:
    """Also after it was killed, and with every record there twice."""
    topic = Topic(kafka_server.servers[0])
    await topic.create()
    notices = [
        make_outcome("1", points=100),
        make_outcome("1", kind=Kind.ORDER, effect_key="main:order:1", points=0),
        make_outcome("2", points=50, outcome=State.REJECTED),
        make_outcome("3", points=7, outcome=State.DUPLICATE),
    ]
    await topic.publish([*notices, *notices])

    async with topic.reader(tmp_path) as output:
        lines = await read_lines(output, 2)
    await topic.publish([*notices, make_outcome("4", points=9)])
    async with topic.reader(tmp_path) as output:
        later = await read_lines(output, 1)

    assert sorted(lines) == ["order 1: 100 points", "order 3: 7 points"]
    assert later == ["order 4: 9 points"]
