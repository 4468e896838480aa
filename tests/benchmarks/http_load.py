"""
A lean HTTP load generator, run as a process of its own: `python -m tests.benchmarks.http_load`.

It reads one JSON object (port, path, headers, body file, connections, seconds, rate) from its
arguments and writes one with counts and latencies. With `targets` in place of path and body these
are got in turn. With a rate, requests are due at fixed times and their latency counts from then,
so that a server that stalls cannot hide it.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import orjson

_ORDER_ID = b"10000001"  # of the body; replaced so that every request is another order


@dataclass(slots=True)
class Tally:
    """What came back."""

    statuses: dict[int, int] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)


class Sender(asyncio.Protocol):
    """One keep-alive connection with one request under way."""

    def __init__(self, requests: "Source", tally: Tally) -> None:
        self._requests = requests
        self._tally = tally
        self._buffer = b""
        self._due_s = 0.0
        self._is_waiting = False
        self.on_idle: Any = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, due_s: float) -> None:
        self._due_s = due_s
        self._is_waiting = True
        self.transport.write(self._requests.next())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        at = head.lower().index(b"content-length:") + 15
        length = int(head[at : head.find(b"\r\n", at)] if b"\r\n" in head[at:] else head[at:])
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        status = int(head[9:12])
        self._tally.statuses[status] = self._tally.statuses.get(status, 0) + 1
        self._tally.latencies_s.append(perf_counter() - self._due_s)
        self._is_waiting = False
        self.on_idle(self)


class Source(Protocol):
    """Where the bytes of requests come from."""

    def next(self) -> bytes: ...


class Targets:
    """The bytes of GET requests, one target after the other, from the first again."""

    def __init__(self, targets: Sequence[str], headers: Mapping[str, str]) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._requests = cycle(
            f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode()
            for target in targets
        )

    def next(self) -> bytes:
        return next(self._requests)


class Requests:
    """The bytes of requests that differ in their order id."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"{lines}Content-Length: {len(body)}\r\n\r\n"
        )
        self._parts = (head.encode() + body).split(_ORDER_ID)
        self._number = 10_000_000

    def next(self) -> bytes:
        self._number += 1
        return (b"%d" % self._number).join(self._parts)


def source_of(task: dict[str, Any]) -> Source:
    """What the task says to send."""
    if targets := task.get("targets"):
        return Targets(targets, task["headers"])
    return Requests(task["path"], task["headers"], Path(task["body"]).read_bytes())


async def run(task: dict[str, Any]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    tally = Tally()
    requests = source_of(task)
    senders: list[Sender] = []
    for _ in range(task["connections"]):
        _, sender = await loop.create_connection(
            lambda: Sender(requests, tally), "127.0.0.1", task["port"]
        )
        senders.append(sender)
    begin_s = perf_counter()
    end_s = begin_s + task["seconds"]
    finished = asyncio.Event()
    if rate := task.get("rate"):
        await _send_at_rate(senders, rate, begin_s, end_s)
    else:
        working = len(senders)

        def again(sender: Sender) -> None:
            nonlocal working
            now_s = perf_counter()
            if now_s < end_s:
                sender.send(now_s)
                return
            working -= 1
            if not working:
                finished.set()

        for sender in senders:
            sender.on_idle = again
            sender.send(perf_counter())
        await finished.wait()
    took_s = perf_counter() - begin_s
    for sender in senders:
        sender.transport.close()
    latencies = sorted(tally.latencies_s)
    return {
        "statuses": tally.statuses,
        "requests": len(latencies),
        "rate": len(latencies) / took_s,
        "p50_s": latencies[len(latencies) // 2],
        "p99_s": latencies[int(len(latencies) * 0.99)],
    }


async def _send_at_rate(senders: list[Sender], rate: float, begin_s: float, end_s: float) -> None:
    """Send when due, on whichever connection is free; what is late waits its turn."""
    idle: asyncio.Queue[Sender] = asyncio.Queue()
    for sender in senders:
        sender.on_idle = idle.put_nowait
        idle.put_nowait(sender)
    due_s = begin_s
    while due_s < end_s:
        if (wait_s := due_s - perf_counter()) > 0:
            await asyncio.sleep(wait_s)
        sender = await idle.get()
        sender.send(due_s)
        due_s += 1 / rate
    for _ in senders:
        await idle.get()


def main() -> None:
    task = orjson.loads(sys.argv[1])
    result = asyncio.run(run(task))
    sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_NON_STR_KEYS))


if __name__ == "__main__":
    main()
