"""Keeps shapes in the ledger, so that a restart forgets none and one process tells of all."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Final, Protocol

import orjson

from service.domain.errors import LedgerUnavailableError
from service.web.shapes import SeenShape, ShapeLog

_EVERY_S: Final = 30.0

logger = logging.getLogger("relay.shapes")


class ShapesLedger(Protocol):
    """Stores shapes by source. Raises: LedgerUnavailableError."""

    async def record_shapes(self, shapes: Sequence[tuple[str, str, int]]) -> None:
        """Keep each (source, JSON, time in ms) unless a younger one is there."""
        ...

    async def shapes(self) -> Sequence[str]:
        """The JSON of each, by source."""
        ...


class ShapeKeeper:
    """The worker that stores what this process saw (`ShapesSeen` of all processes)."""

    name = "shapes"

    def __init__(self, log: ShapeLog, ledger: ShapesLedger, *, every_s: float = _EVERY_S) -> None:
        self._log = log
        self._ledger = ledger
        self._every_s = every_s
        self._stored: dict[str, int] = {}  # when the shape was taken that is stored

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await stop.wait()
            await self._store()

    async def seen(self) -> Sequence[SeenShape]:
        """The youngest shape of each source, of this process or another."""
        youngest = {shape.source: shape for shape in self._log.shapes()}
        for text in await self._ledger.shapes():
            stored = SeenShape.from_json(orjson.loads(text))
            known = youngest.get(stored.source)
            if known is None or known.taken_at_ms < stored.taken_at_ms:
                youngest[stored.source] = stored
        return [youngest[source] for source in sorted(youngest)]

    async def _store(self) -> None:
        news = [
            shape
            for shape in self._log.shapes()
            if self._stored.get(shape.source) != shape.taken_at_ms
        ]
        if not news:
            return
        try:
            await self._ledger.record_shapes(
                [
                    (shape.source, orjson.dumps(shape.to_json()).decode(), shape.taken_at_ms)
                    for shape in news
                ]
            )
        except LedgerUnavailableError as error:
            logger.info("shapes.not_stored", extra={"reason": error.reason})
            return
        self._stored |= {shape.source: shape.taken_at_ms for shape in news}
