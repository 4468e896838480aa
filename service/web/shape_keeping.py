"""Keeps shapes in the ledger, so that a restart forgets none and one process tells of all."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson

from service.domain.errors import LedgerUnavailableError
from service.web.shapes import SeenShape, ShapeLog

logger = logging.getLogger("relay.shapes")


class ShapesLedger(Protocol):
    """Stores shapes by source. Raises: LedgerUnavailableError."""

    async def record_shapes(self, shapes: Sequence[tuple[str, str, int]]) -> None:
        """Keep each (source, JSON, time in ms) unless a younger one is there."""
        ...

    async def shapes(self) -> Sequence[str]:
        """The JSON of each, by source."""
        ...


@dataclass(frozen=True, slots=True)
class SeenShapes:
    """By source; `is_shared` when those that the ledger keeps are among them."""

    shapes: Sequence[SeenShape]
    is_shared: bool


class ShapeKeeper:
    """
    Tells the shapes that were seen, and is the worker that stores those of this process.

    Args:
        every_s: between two times of storing; what is news is stored once more at the end.
    """

    name = "shapes"

    def __init__(self, log: ShapeLog, *, every_s: float) -> None:
        self._log = log
        self._every_s = every_s
        self._ledger: ShapesLedger | None = None
        self._stored: dict[str, int] = {}  # when the shape was taken that is stored

    @contextlib.contextmanager
    def kept_in(self, ledger: ShapesLedger) -> Iterator[None]:
        """While `ledger` is open: what it keeps is told too, and `run` stores in it."""
        self._ledger = ledger
        try:
            yield
        finally:
            self._ledger = None

    async def run(self, stop: asyncio.Event) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await stop.wait()
            await self._store()
            if stop.is_set():
                return

    async def seen(self) -> SeenShapes:
        """
        The youngest shape of each source, of any process; while the ledger is away, of this one.
        """
        youngest = {shape.source: shape for shape in self._log.shapes()}
        kept = await self._kept()
        for stored in kept or ():
            known = youngest.get(stored.source)
            if known is None or known.taken_at_ms < stored.taken_at_ms:
                youngest[stored.source] = stored
        return SeenShapes(
            [youngest[source] for source in sorted(youngest)], is_shared=kept is not None
        )

    async def _kept(self) -> Sequence[SeenShape] | None:
        if self._ledger is None:
            return None
        try:
            texts = await self._ledger.shapes()
        except LedgerUnavailableError as error:
            logger.info("shapes.not_read", extra={"reason": error.reason})
            return None
        return [SeenShape.from_json(orjson.loads(text)) for text in texts]

    async def _store(self) -> None:
        assert self._ledger is not None, "it runs while the ledger is open"
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
