"""`doctor --shapes`: how SCAYLE's requests look, beside what we assume of them."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Final

from service.cli.desk import Row
from service.cli.desk_online import open_operations_api
from service.cli.output import Column, moment, print_json, print_table
from service.domain.errors import NotFoundError
from service.settings import Settings, load_settings


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
_DIFFERENCES: Final = (
    Column("source", "source"),
    Column("path", "path"),
    Column("difference", "difference", lambda value: str(value).replace("_", " ")),
    Column("seen", "seen"),
    Column("assumed", "assumed"),
    Column("basis", "basis"),
)


def show_shapes(*, sandbox: bool, as_json: bool) -> None:
    """
    Print the shapes that the running service has seen: of a source its differences.

    Raises: UnreachableError; NotFoundError for a service that keeps none.
    """
    settings = load_settings(os.environ, sandbox=sandbox, serving=False)
    shapes = asyncio.run(_ask(settings))
    if as_json:
        print_json(shapes)
        return
    print_table(
        [{**shape, **(shape.get("call") or {}), "says": _says(shape)} for shape in shapes],
        _SOURCES,
        nothing="no request of SCAYLE was seen yet",
    )
    found = [
        {"source": shape.get("source"), **difference}
        for shape in shapes
        for difference in shape.get("differences") or ()
    ]
    if found:
        print()
        print_table(found, _DIFFERENCES, nothing="")


async def _ask(settings: Settings) -> Sequence[Row]:
    async with open_operations_api(settings) as api:
        try:
            return (await api.get_page("/api/shapes")).items
        except NotFoundError:
            raise NotFoundError("no_shapes", f"the service at {api.url} keeps none") from None


def _says(shape: Row) -> str:
    found = shape.get("differences")
    if found is None:
        return "nothing is assumed of it"
    says = "as assumed" if not found else f"differs at {len(found)} path(s)"
    return f"{says}; cut at our bounds" if shape.get("is_cut") else says
