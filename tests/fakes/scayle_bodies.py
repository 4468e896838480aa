"""Bodies of SCAYLE's webhooks, made from one complete example."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import orjson

_EXAMPLE = orjson.loads(
    (Path(__file__).parents[1] / "fixtures" / "scayle" / "order-confirmed.json").read_bytes()
)
ABSENT = object()


def order_confirmed(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """
    The example, changed at dotted paths: `{"payload.items.0.id": "a"}`; ABSENT removes.
    """
    body: dict[str, Any] = deepcopy(_EXAMPLE)
    for path, value in (changes or {}).items():
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        place: Any = body
        for part in parents:
            place = place[part]
        if value is ABSENT:
            del place[last]
        else:
            place[last] = value
    return body


def order_confirmed_bytes(changes: dict[str, Any] | None = None) -> bytes:
    """The same as JSON."""
    return orjson.dumps(order_confirmed(changes))
