"""
A bare Splio for benchmarks, a process of its own: it answers at once and keeps nothing.

`python -m tests.benchmarks.responder` prints its port. It says yes to everything with the status
and the least body that Splio documents, so that what is measured is the client.
"""

import asyncio
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping

import orjson

_ORDER_ID = b'"external_id":"'


def _token() -> bytes:
    def part(document: Mapping[str, object]) -> str:
        return urlsafe_b64encode(orjson.dumps(document)).rstrip(b"=").decode()

    now = int(time.time())
    claims = {"iat": now, "exp": now + 86_400}
    return orjson.dumps({"token": f"{part({'alg': 'none'})}.{part(claims)}.c2ln"})


def _answer(status: bytes, body: bytes) -> bytes:
    kind = b"Content-Type: application/json\r\n" if body else b""
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, kind, len(body), body)


_EMPTY_LIST = orjson.dumps(
    {"paging": {"cursors": {"after": None, "before": None}}, "count_element": 0, "elements": []}
)


class Responder(asyncio.Protocol):
    """One connection; requests are answered in turn."""

    def __init__(self) -> None:
        self._buffer = b""
        self._token = _token()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            self._transport.write(self._reply(head, body))

    def _reply(self, head: bytes, body: bytes) -> bytes:
        path = head.split(b" ", 2)[1]
        if path.endswith(b"/credit"):
            return _answer(b"202 Accepted", b"")
        if path.endswith(b"/orders"):
            at = body.index(_ORDER_ID) + len(_ORDER_ID)
            order_id = body[at : body.index(b'"', at)]
            return _answer(b"201 Created", b'{"external_id":"%b"}' % order_id)
        if path.endswith(b"/authenticate"):
            return _answer(b"200 OK", self._token)
        if b"/loyalty/points" in path:
            return _answer(b"200 OK", _EMPTY_LIST)
        return _answer(b"404 Not Found", b"{}")


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Responder, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
