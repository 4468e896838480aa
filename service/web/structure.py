"""The structure of a JSON document: which types are at which paths, and no value."""

import re
from collections.abc import Container, Iterable
from itertools import islice
from types import NoneType
from typing import Any, Final
from urllib.parse import unquote_plus

import orjson

MAX_FIELDS: Final = 500  # paths of one shape; SCAYLE's largest known event has some 200
MAX_DEPTH: Final = 10
_MAX_VALUES: Final = 4000  # looked at for one shape, some milliseconds
_MAX_ELEMENTS: Final = 20  # looked at of one array
_MAX_QUERY_FIELDS: Final = 50
NOT_READ: Final = "not read"
_UNREADABLE: Final = "unreadable"
_DATA: Final = "*"  # in place of a key that may be data
_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
# Members that a retailer fills: what stands in them may have data for its keys (contract A.7).
_FREE_MEMBERS: Final = frozenset(("custom", "customData", "legacyCustomData"))
_TYPES: Final[dict[type, str]] = {
    NoneType: "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def take_shape(
    body: bytes | None, raw_query: str = "", *, free: Container[str] = ()
) -> tuple[dict[str, str], bool]:
    """
    The types of a JSON body and a query by path, and whether there was more than is looked at.

    Paths are as `SeenShape` has them; what is no JSON has the type `unreadable`.

    Args:
        body: None, of the type `not read`, where it was not.
        free: paths where anything may stand: of what is in them only the types are told.
    """
    walk = _Walk(free)
    pairs = [pair for pair in raw_query.split("&") if pair]
    if len(pairs) > _MAX_QUERY_FIELDS:
        walk.add("?", _UNREADABLE)
    else:
        for pair in pairs:
            name, equals, _ = pair.partition("=")
            # Alone it may be a value, such as a card.
            walk.add(f"?{_name(unquote_plus(name)) if equals else _DATA}", "string")
    if body is None:
        walk.add("", NOT_READ)
    elif body.strip():
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            walk.add("", _UNREADABLE)
        else:
            walk.look("", document, 0)
    return {path: "|".join(sorted(types)) for path, types in walk.types.items()}, walk.is_cut


class _Walk:
    """One look at a document, which ends at the bounds."""

    def __init__(self, free: Container[str] = ()) -> None:
        self.types: dict[str, set[str]] = {}
        self.is_cut = False
        self._free = free
        self._left = _MAX_VALUES

    def add(self, path: str, kind: str) -> bool:
        """Note a type at a path; False beyond the bounds."""
        known = self.types.get(path)
        if self._left <= 0 or (known is None and len(self.types) >= MAX_FIELDS):
            self.is_cut = True
            return False
        self._left -= 1
        if known is None:
            self.types[path] = {kind}
        else:
            known.add(kind)
        return True

    def look(self, path: str, value: Any, depth: int) -> None:
        """Note `value` and what is in it."""
        is_document = depth == 0 and isinstance(value, dict)
        if not is_document and not self.add(path, _TYPES[type(value)]):
            return
        if not isinstance(value, dict | list) or not value:
            return
        is_free = path in self._free or path.rpartition(".")[2] in _FREE_MEMBERS
        if depth >= MAX_DEPTH:
            self.is_cut = True
            return
        for below, member in self._members(path, value, is_free=is_free):
            if is_free:
                self.add(below, _TYPES[type(member)])
            else:
                self.look(below, member, depth + 1)

    def _members(
        self, path: str, value: dict[str, Any] | list[Any], *, is_free: bool
    ) -> Iterable[tuple[str, Any]]:
        """What is in `value`, by path."""
        if isinstance(value, list):
            self.is_cut |= len(value) > _MAX_ELEMENTS
            for element in islice(value, _MAX_ELEMENTS):
                yield f"{path}[]", element
        else:
            self.is_cut |= len(value) > MAX_FIELDS
            for key, member in islice(value.items(), MAX_FIELDS):
                name = _DATA if is_free else _name(key)
                yield f"{path}.{name}" if path else name, member


def _name(key: str) -> str:
    return key if _KEY.fullmatch(key) else _DATA
