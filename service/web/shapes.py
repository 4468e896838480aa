"""
Shapes: what SCAYLE's requests look like, without anything that stands in them.

Much of SCAYLE's contract is not documented. A shape keeps field paths and JSON types, so that the
first real request can be compared with what we assume, on a service that keeps no bodies.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Annotated, Any, Final, Self

from aiohttp import web
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from service.domain.clock import Clock
from service.web.assumed_shapes import free_paths
from service.web.structure import MAX_FIELDS, take_shape

EVERY_S: Final = 10.0
"""Least time between two shapes of one source, as taking one costs more than a webhook."""

MAX_SOURCES: Final = 128
_MAX_CREDENTIALS: Final = 5
_MAX_HEADERS: Final = 30
_OTHER: Final = "other"

_SOURCE: Final = re.compile(r"[A-Za-z][A-Za-z0-9:._-]{0,79}")
_METHODS: Final = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"))
_MEDIA_TYPE: Final = re.compile(r"[a-z]{1,20}/[a-z0-9.+-]{1,60}")
_SCHEMES: Final = {
    scheme.lower(): scheme for scheme in ("Bearer", "Basic", "Digest", "Token", "ApiKey")
}
_HEADER: Final = re.compile(r"[a-z][a-z0-9-]{0,39}")
_MAY_BE_CREDENTIALS: Final = re.compile(r"(?=.*(?:auth|token|key|secret|signature))[a-z0-9-]{1,40}")


@dataclass(frozen=True, slots=True)
class CallFacts:
    """
    What the headers of a call say of its form.

    `credentials` are the forms of those that were shown, such as `Authorization: Bearer`, or the
    names of other headers that may hold some; `headers` are the names of all.
    """

    method: str
    credentials: tuple[str, ...]
    content_type: str | None
    headers: tuple[str, ...]


class _Written(TypedDict):
    source: Annotated[str, Field(pattern=rf"^{_SOURCE.pattern}$")]
    count: Annotated[int, Field(ge=0)]
    last_at: int
    taken_at: int
    is_cut: bool
    fields: Annotated[dict[str, str], Field(max_length=MAX_FIELDS)]
    call: CallFacts | None


_written: Final = TypeAdapter(_Written)


@dataclass(frozen=True, slots=True)
class SeenShape:
    """
    The shape that a source had when it was last looked at.

    Args:
        source: `webhook:order-confirmed`, `loyalty:capture`.
        fields: types (`string`, `integer|null`) by path; `items[].id` is in every element of an
            array, `?type` in the query, and `*` stands for keys that may be data, nothing of which
            is looked into where anything may stand. The path of the whole is empty, and told
            only when that is no object, or was not read.
        is_cut: whether there was more than is looked at.
        count: deliveries, also those whose shape was not taken; the last of them `last_at_ms`.
        taken_at_ms: when the shape was taken.
        call: None for a webhook.
    """

    source: str
    fields: Mapping[str, str]
    is_cut: bool
    count: int
    last_at_ms: int
    taken_at_ms: int
    call: CallFacts | None = None

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back to the same."""
        call = None if self.call is None else asdict(self.call)
        return {
            "source": self.source,
            "count": self.count,
            "last_at": self.last_at_ms,
            "taken_at": self.taken_at_ms,
            "is_cut": self.is_cut,
            "fields": dict(self.fields),
            "call": call
            and {
                **call,
                "credentials": list(call["credentials"]),
                "headers": list(call["headers"]),
            },
        }

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """Raises: ValueError for what `to_json` did not write."""
        written = _written.validate_python(document)
        return cls(
            source=written["source"],
            fields=written["fields"],
            is_cut=written["is_cut"],
            count=written["count"],
            last_at_ms=written["last_at"],
            taken_at_ms=written["taken_at"],
            call=written["call"],
        )


@dataclass(slots=True)
class _Entry:
    """What is kept of one source."""

    fields: Mapping[str, str]
    is_cut: bool = False
    count: int = 0
    last_at_ms: int = 0
    taken_at_ms: int = 0
    due_at_ms: int = 0
    call: CallFacts | None = None


class ShapeLog:
    """
    Keeps the last shape of each source, in a bounded memory; the longest quiet is forgotten.

    Args:
        every_s: least time between two shapes of one source; deliveries between are only counted.
    """

    def __init__(self, clock: Clock, *, every_s: float = EVERY_S) -> None:
        self._clock = clock
        self._every_ms = round(every_s * 1000)
        self._entries: dict[str, _Entry] = {}

    def note(
        self, source: str, *, body: bytes | None = None, request: web.BaseRequest | None = None
    ) -> None:
        """
        Count a delivery, and take its shape when that is due: every 10 s, else under 1 µs.

        Note what is refused under a source of its own: strangers must not replace SCAYLE's shape,
        nor good calls that of a malformed one.

        Args:
            body: as it came; what is no JSON has the shape `unreadable`. None: it was not read.
            request: of a call: its query and the form of its headers are noted too.
        """
        now_ms = self._clock.now_ms()
        entry = self._entries.get(source) or self._enter(source)
        entry.count += 1
        entry.last_at_ms = now_ms
        if now_ms < entry.due_at_ms:
            return
        entry.due_at_ms = now_ms + self._every_ms
        entry.taken_at_ms = now_ms
        query = "" if request is None else request.rel_url.raw_query_string
        entry.fields, entry.is_cut = take_shape(body, query, free=free_paths(source))
        entry.call = None if request is None else _call_facts(request)

    def shapes(self) -> list[SeenShape]:
        """The shapes by source."""
        return [
            SeenShape(
                source=source,
                fields=entry.fields,
                is_cut=entry.is_cut,
                count=entry.count,
                last_at_ms=entry.last_at_ms,
                taken_at_ms=entry.taken_at_ms,
                call=entry.call,
            )
            for source, entry in sorted(self._entries.items())
        ]

    def _enter(self, source: str) -> _Entry:
        """The entry of a source that is not known under this very name."""
        name = source if _SOURCE.fullmatch(source) else _OTHER
        entry = self._entries.get(name)
        if entry is None:
            if len(self._entries) >= MAX_SOURCES:
                quiet = min(self._entries, key=lambda each: self._entries[each].last_at_ms)
                del self._entries[quiet]
            entry = self._entries[name] = _Entry(fields={})
        return entry


def _call_facts(request: web.BaseRequest) -> CallFacts:
    shown, names = [], []
    for header, value in request.headers.items():
        name = header.lower()
        names.append(name if _HEADER.fullmatch(name) else _OTHER)
        if name == "authorization":
            shown.append(f"Authorization: {_scheme(value.strip())}")
        elif name == "x-access-token":
            shown.append("X-Access-Token")
        elif _MAY_BE_CREDENTIALS.fullmatch(name):
            shown.append(name)
    media_type = request.headers.get("Content-Type")
    if media_type is not None:
        bare = media_type.partition(";")[0].strip().lower()
        media_type = bare if _MEDIA_TYPE.fullmatch(bare) else _OTHER
    return CallFacts(
        method=request.method if request.method in _METHODS else _OTHER,
        credentials=tuple(islice(dict.fromkeys(shown), _MAX_CREDENTIALS)),
        content_type=media_type,
        headers=tuple(islice(dict.fromkeys(names), _MAX_HEADERS)),
    )


def _scheme(value: str) -> str:
    """The scheme, where it is a known one: any other word may be a part of the token."""
    word, space, _ = value.partition(" ")
    if word.lower() in _SCHEMES:
        return _SCHEMES[word.lower()]
    return "scheme unknown" if space else "bare token"
