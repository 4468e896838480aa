"""The service inside the test's process, wired by the composition root, on files of its own."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson

from service.consumer_setup import Pace
from service.domain.effects import OPEN_STATES, State
from service.domain.ports import StepHook, no_step
from service.runtime import Runtime, open_runtime
from service.sandbox.deliveries import DeliveryPlan, DeliveryReport, deliver
from service.sandbox.splio import SplioSandbox, SplioSandboxSettings, open_splio_sandbox
from service.settings import Settings, load_settings
from service.stores import Role
from service.supervisor import Death
from tests.fakes.metrics import value
from tests.harness.account import Account, compare
from tests.harness.waiting import until

USER: Final = "scayle"
PASSWORD: Final = "sandbox"
_PAGE: Final = 200

# What otherwise happens once a minute comes while a test still runs.
BRISK: Final = Pace(
    seen_every_s=0.05,
    seen_idle_s=0.2,
    holds_every_s=0.05,
    holds_idle_s=0.2,
    shapes_every_s=0.1,
    chores_every_s=0.1,
    desk_again_s=0.1,
    tidy_rounds=5,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Relay:
    """A running service and the sandbox that it talks to."""

    def __init__(
        self, runtime: Runtime, sandbox: SplioSandbox, session: aiohttp.ClientSession
    ) -> None:
        self.runtime = runtime
        self.sandbox = sandbox
        self._session = session
        self._stop = asyncio.Event()
        self._running = asyncio.create_task(runtime.run(self._stop), name="relay")

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._running.done()

    async def stop(self) -> Death | None:
        """Ask it to stop as SIGTERM does; the worker that died, if one did."""
        self._stop.set()
        return await self._running

    async def ended(self) -> Death | None:
        """Wait until it ends by itself."""
        return await asyncio.wait_for(asyncio.shield(self._running), timeout=15)

    async def post(self, envelope: Mapping[str, Any] | bytes, **headers: str) -> Answer:
        """One webhook."""
        body = envelope if isinstance(envelope, bytes) else orjson.dumps(envelope)
        async with self._session.post(
            f"{self.runtime.listeners.public_url}/webhooks/scayle",
            data=body,
            headers={
                "Authorization": aiohttp.encode_basic_auth(USER, PASSWORD),
                "Content-Type": "application/json",
                **headers,
            },
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def call(self, method: str, operation: str, fields: Any = None, **headers: str) -> Answer:
        """One of SCAYLE Checkout's calls; of a GET `fields` are the query."""
        is_get = method == "GET"
        async with self._session.request(
            method,
            f"{self.runtime.listeners.public_url}/loyalty/{operation}",
            params=fields if is_get else None,
            data=None if is_get or fields is None else _body(fields),
            headers={"Authorization": f"Bearer {PASSWORD}", **headers},
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def deliver(
        self, envelopes: Sequence[Mapping[str, Any]], plan: DeliveryPlan | None = None
    ) -> DeliveryReport:
        """Deliver until each is answered 200."""
        return await deliver(
            f"{self.runtime.listeners.public_url}/webhooks/scayle",
            envelopes,
            user=USER,
            password=PASSWORD,
            plan=plan,
        )

    async def operate(self, method: str, path: str, document: Any = None) -> Answer:
        """A call of the operations API, as the operator."""
        async with self._session.request(
            method,
            f"{self.runtime.listeners.operations_url}{path}",
            data=None if document is None else orjson.dumps(document),
            headers={
                "Authorization": aiohttp.encode_basic_auth("operator", PASSWORD),
                "Content-Type": "application/json",
            },
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def effects(self, *states: State) -> list[Mapping[str, Any]]:
        """Effects in these states; all without one."""
        items: list[Mapping[str, Any]] = []
        after: str | None = None
        while True:
            page = await self.runtime.operations.list_effects(
                states=states, limit=_PAGE, after=after
            )
            items.extend(page.items)
            after = page.next
            if after is None:
                return items

    async def states(self) -> Counter[tuple[str, str]]:
        """How many effects there are by kind and state."""
        return Counter((item["kind"], item["state"]) for item in await self.effects())

    async def dead_letters(self) -> list[Mapping[str, Any]]:
        """Dead letters that nobody replayed or dismissed."""
        items: list[Mapping[str, Any]] = []
        after: str | None = None
        while True:
            page = await self.runtime.operations.list_dead_letters(
                only_open=True, limit=_PAGE, after=after
            )
            items.extend(page.items)
            after = page.next
            if after is None:
                return items

    async def rest(self, *, held: int = 0, timeout_s: float = 20.0) -> None:
        """Wait until everything in the log is planned and nothing is open but `held` effects."""

        async def is_at_rest() -> bool:
            if await self.runtime.backlog():
                return False
            still_open = await self.effects(*OPEN_STATES)
            waiting = [item for item in still_open if item["state"] != State.HELD]
            return not waiting and len(still_open) == held

        await until(is_at_rest, what="everything is settled", timeout_s=timeout_s)

    async def account(
        self, envelopes: Sequence[Mapping[str, Any]], report: DeliveryReport
    ) -> Account:
        """Splio's books against what was answered 200; what has a dead letter is set aside."""
        return compare(
            envelopes,
            accepted={order.order_id for order in report.accepted},
            orders=await self.sandbox.orders(),
            credits_=await self.sandbox.credits(),
            set_aside={(item["order_id"], item["kind"]) for item in await self.dead_letters()},
        )

    async def attempts(self, key: str) -> list[Mapping[str, Any]]:
        """The audit trail of one effect, oldest first."""
        answer = await self.operate("GET", f"/api/effects/{key}")
        assert answer.status == 200, answer
        attempts: list[Mapping[str, Any]] = answer.json["attempts"]
        return attempts

    async def requests(self, operation: str) -> int:
        """Requests of one kind that the sandbox got since its start, whatever it answered."""
        statement = await self.sandbox.statement()
        return sum(statement["requests"].get(operation, {}).values())

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample, which must be there from the start."""
        return value(self.runtime.metrics, name, **labels)


def _body(fields: Any) -> bytes | AsyncIterator[bytes]:
    return fields if isinstance(fields, bytes | AsyncIterator) else orjson.dumps(fields)


def environment(directory: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a service on its own files; names as in `running_relay`."""
    return {
        "RELAY_HTTP_PORT": "0",
        "RELAY_OPERATIONS_PORT": "0",
        "RELAY_LOG_URL": f"sqlite:///{directory}/log.db",
        "RELAY_LEDGER_URL": f"sqlite:///{directory}/ledger.db",
        "RELAY_SANDBOX_PATH": f"{directory}/unused.db",
        "RELAY_SPLIO_LIMITS": "off",
        "RELAY_DISK_RESERVE": "1MiB",
        **{f"RELAY_{name.upper()}": value for name, value in settings.items()},
    }


@asynccontextmanager
async def running_sandbox(directory: Path, **settings: Any) -> AsyncIterator[SplioSandbox]:
    """
    A sandbox without limits in which a repeated idempotency key books again, so that a second
    credit would really count.
    """
    chosen = {"limits": None, "points_visible_after_s": 0.1, "repeated_key": "book", **settings}
    async with open_splio_sandbox(
        SplioSandboxSettings(path=str(directory / "sandbox.db"), **chosen)
    ) as sandbox:
        yield sandbox


@asynccontextmanager
async def running_relay(
    directory: Path,
    sandbox: SplioSandbox,
    settings: Mapping[str, str] = {},
    *,
    unset: Collection[str] = (),
    step: StepHook = no_step,
    pace: Pace = BRISK,
) -> AsyncIterator[Relay]:
    """
    A service with the sandbox's short waits, stopped in order at the end.

    `settings` are named in lower case and without `RELAY_`; those of `unset` have no value, though
    there is one for use beside the sandbox.
    """
    loaded = load_settings(
        environment(directory, {"splio_url": sandbox.url, **settings}), sandbox=True
    )
    loaded = loaded.model_copy(update=dict.fromkeys(unset))
    async with relay_in_role(Role.SERVE, loaded, sandbox, step=step, pace=pace) as relay:
        yield relay


@asynccontextmanager
async def relay_in_role(
    role: Role,
    settings: Settings,
    sandbox: SplioSandbox,
    *,
    step: StepHook = no_step,
    pace: Pace = BRISK,
) -> AsyncIterator[Relay]:
    """One process of a service, stopped in order at the end."""
    async with (
        open_runtime(settings, role=role, step=step, pace=pace) as runtime,
        aiohttp.ClientSession() as session,
    ):
        relay = Relay(runtime, sandbox, session)
        try:
            yield relay
        finally:
            await relay.stop()
