"""`doctor --shapes`: how SCAYLE's requests look, beside what we assume of them."""

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from service.cli.desk import Row
from service.cli.desk_online import open_operations_api
from service.cli.output import Column, moment, print_json, print_lines, print_table
from service.domain.errors import NotFoundError
from service.settings import Settings, load_settings
from service.web.structure import NOT_READ


def _joined(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


_SOURCES: Final = (
    Column("source", "source"),
    Column("seen", "count", right=True),
    Column("last", "last_at", moment),
    Column("method", "method"),
    Column("credentials", "credentials", _joined),
    Column("content type", "content_type"),
    Column("", "says"),
)
_DIFFERENCE: Final = (
    Column("difference", "difference", lambda value: str(value).replace("_", " ")),
    Column("assumed", "assumed"),
    Column("basis", "basis"),
)


def show_shapes(*, sandbox: bool, as_json: bool) -> None:
    """
    Print the shapes that the running service has seen, each with its differences.

    Raises: UnreachableError; NotFoundError for a service that keeps none.
    """
    settings = load_settings(os.environ, sandbox=sandbox, serving=False)
    page = asyncio.run(_ask(settings))
    shapes: Sequence[Row] = page.get("items") or ()
    nothing = "no request of SCAYLE was seen yet"
    if not page.get("is_shared"):
        nothing = "none was seen since it started"
        print("only what this process saw: it has no ledger, or none that answers", file=sys.stderr)
    if as_json:
        print_json(shapes)
        return
    print_table(
        [{**shape, **(shape.get("call") or {}), "says": _says(shape)} for shape in shapes],
        _SOURCES,
        nothing=nothing,
    )
    for shape in shapes:
        source = str(shape.get("source"))
        print()
        if rows := _fields(shape):
            columns = (Column(source, "path"), Column("seen", "seen"), *_DIFFERENCE)
            print_table(rows, columns, nothing="")
        if headers := (shape.get("call") or {}).get("headers"):
            print_lines([f"{source} (headers): {_joined(headers)}"])


async def _ask(settings: Settings) -> Row:
    async with open_operations_api(settings) as api:
        try:
            return await api.get("/api/shapes")
        except NotFoundError:
            raise NotFoundError("no_shapes", f"the service at {api.url} keeps none") from None


def _fields(shape: Row) -> list[Row]:
    """What was seen by path, then what is missing."""
    rows: dict[str, Row] = {}
    for path, seen in (shape.get("fields") or {}).items():
        rows[path or "(body)"] = {"seen": seen}
    for difference in shape.get("differences") or ():
        rows[difference.get("path") or "(body)"] = difference
    return [{**row, "path": path} for path, row in rows.items()]


def _says(shape: Row) -> str:
    found = shape.get("differences")
    is_unread = (shape.get("fields") or {}).get("") == NOT_READ
    says = []
    if found is None:
        says.append("nothing is assumed of it")
    elif found:
        says.append(f"differs at {len(found)} path(s)")
    elif not is_unread:
        says.append("as assumed")
    if is_unread:
        says.append("body not read")
    if shape.get("is_cut"):
        says.append("cut")
    return "; ".join(says)
