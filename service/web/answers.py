"""Answers: JSON documents and RFC 9457 problem documents."""

from collections.abc import Mapping
from email.utils import formatdate
from time import time
from typing import Any, Final

import orjson
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

SERVER: Final = "loyalty-relay"  # instead of aiohttp's and Python's versions
PROBLEM_TYPE: Final = "application/problem+json"
_URN: Final = "urn:loyalty-relay:problem:"


def json_answer(document: Any, *, status: int = 200) -> web.Response:
    """`document` as JSON."""
    # Rows of the ledger are mappings of any kind.
    return bytes_answer(
        orjson.dumps(document, default=dict), content_type="application/json", status=status
    )


def bytes_answer(body: bytes, *, content_type: str, status: int = 200) -> web.Response:
    """A body that is encoded already."""
    return web.Response(
        body=body, status=status, headers={"Content-Type": content_type, "Server": SERVER}
    )


class ReadyAnswer(web.StreamResponse):
    """
    A 200 with a JSON body, written in one piece without aiohttp's header objects.

    Those cost as much as all else that aiohttp does for a webhook. Only for a connection that
    stays open: `ready_answer` decides.
    """

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._bytes = b"%b%d\r\nDate: %b\r\n\r\n%b" % (_HEAD, len(body), _date.now(), body)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self._keep_alive = True
        if (transport := request.transport) is not None:
            transport.write(self._bytes)
            if request.protocol.writing_paused:
                await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


def ready_answer(request: web.BaseRequest, body: bytes) -> web.StreamResponse:
    """The fastest 200 with the JSON `body` that `request` allows."""
    if request.version == HttpVersion11 and request.keep_alive:
        return ReadyAnswer(body)
    return bytes_answer(body, content_type="application/json")


class _Date:
    """The text of the `Date` header, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = b""

    def now(self) -> bytes:
        second = int(time())
        if second != self._second:
            self._second = second
            self._text = formatdate(second, usegmt=True).encode()
        return self._text


_date: Final = _Date()
_HEAD: Final = (
    f"HTTP/1.1 200 OK\r\nServer: {SERVER}\r\nContent-Type: application/json\r\nContent-Length: "
).encode()


def problem(
    status: int,
    slug: str,
    title: str,
    detail: str = "",
    *,
    headers: Mapping[str, str] | None = None,
    close: bool = False,
    **members: str,
) -> web.Response:
    """
    A problem document; `slug` ends its `type`, which names the kind of problem for good.

    Args:
        close: end the connection after it, as the rest of the request was not read.
        members: further members of the document.
    """
    answer = web.Response(
        body=problem_document(status, slug, title, detail, **members),
        status=status,
        headers={"Content-Type": PROBLEM_TYPE, "Server": SERVER, **(headers or {})},
    )
    if close:
        answer.force_close()
    return answer


def problem_document(status: int, slug: str, title: str, detail: str = "", **members: str) -> bytes:
    """The bytes of a problem document. Source: RFC 9457, section 3.1."""
    document: dict[str, Any] = {"type": _URN + slug, "title": title, "status": status}
    if detail:
        document["detail"] = detail
    return orjson.dumps(document | members)
