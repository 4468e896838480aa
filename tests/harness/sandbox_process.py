"""The Splio sandbox as a process of its own, with books that outlive it."""

from pathlib import Path
from typing import Any

import aiohttp
import orjson

from tests.harness.child_process import ChildProcess
from tests.harness.ports import free_port


class SandboxProcess(ChildProcess):
    """
    One sandbox on its file in `directory`; it keeps its port over restarts.

    A repeated idempotency key books again, so that a second credit would really count.
    """

    def __init__(self, directory: Path, **settings: Any) -> None:
        super().__init__("tests.harness.run_sandbox", log_path=directory / "sandbox.log")
        self._settings = {
            "path": str(directory / "sandbox.db"),
            "port": free_port(),
            "repeated_key": "book",
            "points_visible_after_s": 0.3,
            "limits": None,
            **settings,
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._settings['port']}"

    def start(self) -> None:
        self.spawn([orjson.dumps(self._settings).decode()], environment={})

    async def wait_ready(self) -> None:
        await self.wait_answer(f"{self.url}/_sandbox/books")

    async def statement(self) -> dict[str, Any]:
        """The statement of account."""
        document: dict[str, Any] = await self._control("GET", "books")
        return document

    async def orders(self) -> list[dict[str, Any]]:
        """Every order with its lines."""
        return await self._rows("orders")

    async def credits(self) -> list[dict[str, Any]]:
        """Every credit that was booked."""
        return await self._rows("credits")

    async def add_fault(self, **rule: Any) -> None:
        """Put a fault rule into force."""
        await self._control("POST", "faults", rule)

    async def clear_faults(self) -> None:
        """Take all rules out of force."""
        await self._control("DELETE", "faults")

    async def _rows(self, name: str) -> list[dict[str, Any]]:
        async with (
            aiohttp.ClientSession(raise_for_status=True) as session,
            session.get(f"{self.url}/_sandbox/{name}") as response,
        ):
            return [orjson.loads(line) for line in (await response.read()).splitlines()]

    async def _control(self, method: str, path: str, document: Any = None) -> Any:
        async with (
            aiohttp.ClientSession(raise_for_status=True) as session,
            session.request(method, f"{self.url}/_sandbox/{path}", json=document) as response,
        ):
            body = await response.read()
            return orjson.loads(body) if body else None
