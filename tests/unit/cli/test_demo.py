"""When the demonstration may tell its account."""

from types import SimpleNamespace
from typing import Any, cast

from service.cli.demo import is_at_rest
from service.domain.ledger import Page
from service.runtime import Runtime


class Working:
    """One order in the log, which moves on by a step with every question."""

    def __init__(self) -> None:
        self.settings = SimpleNamespace(debit_by="reward")
        self.operations = self
        self._unread, self._effects, self._holds = 1, 0, 0

    async def backlog(self) -> int:
        return self._answer(self._unread)

    async def list_effects(self, **_asked: Any) -> Page:
        return Page([{}] * self._answer(self._effects), None)

    async def list_holds(self, **_asked: Any) -> Page:
        return Page([{}] * self._answer(self._holds), None)

    def _answer(self, figure: int) -> int:
        """`figure`, before the step."""
        self._unread, self._effects, self._holds = 0, self._unread, self._effects
        return figure


async def test_an_order_planned_between_the_questions_is_seen() -> None:
    assert not await is_at_rest(cast("Runtime", Working()))
