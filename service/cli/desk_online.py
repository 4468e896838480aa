"""The desk at the running service's operations API."""

import base64
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from service.cli.desk import DeadLetterFilter, Row, Rows
from service.cli.exits import AccessError, RequestError, UnreachableError
from service.domain.effects import Kind, State
from service.domain.errors import NotFoundError, RelayError, StartupError, WrongStateError
from service.setting_values import is_loopback
from service.settings import SANDBOX_PASSWORD, Settings

_OPERATOR: Final = "operator"
_CONNECT_S: Final = 3.0
_TOTAL_S: Final = 60.0  # a look-up asks Splio, a replay of a page plans it again
_REPLY_LIMIT: Final = 64 << 20  # bytes; a page of effects is far below
_OK: Final = range(200, 300)
_NO_ACCESS: Final = (401, 403, 429)
_CERTIFICATE_END: Final = "-----END CERTIFICATE-----"


class OperationsApi:
    """
    Requests to the operations listener, and what its answers mean.

    Raises: UnreachableError when nothing of ours answers, AccessError, NotFoundError,
    WrongStateError; RelayError for any other refusal.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        password: str,
        trust: bool | ssl.SSLContext,
    ) -> None:
        self.url = url
        self._session = session
        self._trust = trust
        self._login = {}
        if password:
            self._login["Authorization"] = aiohttp.encode_basic_auth(_OPERATOR, password, "utf-8")

    async def get(
        self,
        path: str,
        query: Mapping[str, Sequence[str] | str | int | None] | None = None,
        *,
        as_operator: bool = False,
    ) -> Row:
        """The object at `path`; a query's None is left out, a sequence is repeated."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        url = URL(self.url + path, encoded=True).with_query(given)
        return self._object(await self._ask("GET", url, as_operator=as_operator))

    async def get_page(
        self, path: str, query: Mapping[str, Sequence[str] | str | int | None] | None = None
    ) -> Rows:
        """A page of the list at `path`."""
        return self._page(await self.get(path, query))

    async def post(self, path: str, document: Mapping[str, Any] | None = None) -> Row:
        """What the service answers to a change; empty when that is nothing."""
        url = URL(self.url + path, encoded=True)
        answer = await self._ask("POST", url, document, as_operator=True)
        return {} if answer is None else self._object(answer)

    async def change(self, path: str, ids: Sequence[int]) -> Sequence[Row]:
        """What became of each of `ids`."""
        return self._page(await self.post(path, {"ids": list(ids)})).items

    async def readiness(self) -> tuple[bool, Sequence[str]]:
        """Whether the service is ready, and if not, why not."""
        status, document = await self._send("GET", URL(self.url + "/readyz"))
        reasons = document.get("reasons") if isinstance(document, dict) else None
        if status not in (200, 503) or not isinstance(reasons, list):
            raise self._stranger(f"it answers {status} at /readyz")
        return status in _OK, [str(reason) for reason in reasons]

    async def _ask(self, method: str, url: URL, document: Any = None, *, as_operator: bool) -> Any:
        status, answer = await self._send(method, url, document, as_operator=as_operator)
        if status in _OK:
            return answer
        problem = answer if isinstance(answer, dict) else {}
        if not str(problem.get("type", "")).startswith("urn:loyalty-relay:"):
            raise self._stranger(f"it answers {status} at {url.raw_path}")
        slug = str(problem["type"]).rpartition(":")[2]
        detail = str(problem.get("detail") or problem.get("title") or "")
        if status in _NO_ACCESS:
            raise AccessError(
                slug, f"{detail}; changes are made as operator with RELAY_OPERATIONS_PASSWORD"
            )
        # The detail is an error of the use case as text, `reason: detail`.
        reason, colon, rest = detail.partition(": ")
        if not colon or not reason.isidentifier():
            reason, rest = slug, detail
        match status:
            case 400:
                raise RequestError(slug, detail)
            case 404:
                raise NotFoundError(reason, rest)
            case 409:
                raise WrongStateError(reason, rest)
            case _:
                raise RelayError(slug, detail)

    async def _send(
        self, method: str, url: URL, document: Any = None, *, as_operator: bool = False
    ) -> tuple[int, Any]:
        body = None if document is None else orjson.dumps(document)
        headers = dict(self._login) if as_operator else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False, ssl=self._trust
            ) as response:
                content = await response.content.read(_REPLY_LIMIT)
                while chunk := await response.content.read(_REPLY_LIMIT):
                    content += chunk
        except aiohttp.ClientConnectorCertificateError as error:
            raise self._stranger(
                f"its certificate is not a good one of RELAY_TLS_CERT ({_why(error)})"
            ) from error
        except aiohttp.ClientSSLError as error:
            raise self._stranger("it does not speak TLS, as RELAY_TLS_CERT asks for") from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise UnreachableError(
                "not_reachable",
                f"nothing answers at {self.url}. Is the service running? The address is that of"
                " RELAY_OPERATIONS_HOST and RELAY_OPERATIONS_PORT",
            ) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnreachableError(
                "no_answer",
                f"{self.url} gave no answer ({type(error).__name__}); a change may have been made"
                if method == "POST"
                else f"{self.url} gave no answer ({type(error).__name__})",
            ) from error
        try:
            return response.status, orjson.loads(content) if content else None
        except orjson.JSONDecodeError:
            raise self._stranger(
                f"it answers {response.status} without JSON at {url.raw_path}"
            ) from None

    def _object(self, document: Any) -> Row:
        if not isinstance(document, dict):
            raise self._stranger("it does not answer with an object")
        return document

    def _page(self, document: Row) -> Rows:
        items = document.get("items")
        if not isinstance(items, list):
            raise self._stranger("it does not answer with a list")
        return Rows([self._object(item) for item in items], document.get("next"))

    def _stranger(self, why: str) -> UnreachableError:
        return UnreachableError(
            "not_ours", f"what listens at {self.url} is not this service's operations API: {why}"
        )


class OnlineDesk:
    """Asks the running service; changes are recorded there under the user operator."""

    def __init__(self, api: OperationsApi) -> None:
        self._api = api

    async def effects(
        self,
        *,
        states: Sequence[State],
        kind: Kind | None,
        order_id: str | None,
        limit: int,
        after: str | None,
    ) -> Rows:
        query = {
            "state": states,
            "kind": kind,
            "order_id": order_id,
            "limit": limit,
            "after": after,
        }
        return await self._api.get_page("/api/effects", query)

    async def order(self, order_id: str) -> Row:
        return await self._api.get(f"/api/orders/{_part(order_id)}")

    async def look_up(self, key: str) -> str:
        answer = await self._api.post(f"/api/effects/{_part(key)}/look-up")
        return str(answer.get("verdict", ""))

    async def release(self, key: str) -> None:
        await self._api.post(f"/api/effects/{_part(key)}/release")

    async def reject(self, key: str) -> None:
        await self._api.post(f"/api/effects/{_part(key)}/reject")

    async def holds(self, *, only_open: bool, limit: int, after: str | None) -> Rows:
        query = {"open": "true" if only_open else None, "limit": limit, "after": after}
        return await self._api.get_page("/api/holds", query)

    async def hold(self, key: str) -> Row:
        return await self._api.get(f"/api/holds/{_part(key)}", as_operator=True)

    async def end_hold(self, key: str) -> None:
        await self._api.post(f"/api/holds/{_part(key)}/end")

    async def dead_letters(
        self, wanted: DeadLetterFilter, *, limit: int, after: str | None
    ) -> Rows:
        query = {
            "reason": wanted.reason,
            "since": wanted.since_ms,
            "until": wanted.until_ms,
            "open": "true" if wanted.only_open else None,
            "limit": limit,
            "after": after,
        }
        return await self._api.get_page("/api/dead-letters", query)

    async def dead_letter(self, dead_letter_id: int) -> Row:
        return await self._api.get(f"/api/dead-letters/{dead_letter_id}")

    async def dead_letter_bytes(self, dead_letter_id: int) -> bytes:
        row = await self._api.get(f"/api/dead-letters/{dead_letter_id}", as_operator=True)
        match row:
            case {"record": str(text)}:
                return text.encode()
            case {"record_base64": str(text)}:
                return base64.b64decode(text)
            case _:
                raise AccessError(
                    "no_bytes",
                    "the service shows them to the operator only, and its"
                    " RELAY_OPERATIONS_PASSWORD is not set",
                )

    async def replay(self, ids: Sequence[int]) -> Sequence[Row]:
        return await self._api.change("/api/dead-letters/replay", ids)

    async def dismiss(self, ids: Sequence[int]) -> Sequence[Row]:
        return await self._api.change("/api/dead-letters/dismiss", ids)

    async def lanes(self) -> Sequence[Row]:
        return (await self._api.get_page("/api/lanes")).items

    async def release_lane(self, lane: str) -> None:
        await self._api.post(f"/api/lanes/{_part(lane)}/release")


@asynccontextmanager
async def open_online_desk(settings: Settings) -> AsyncIterator[OnlineDesk]:
    """The desk at the service that runs with these settings; nothing is asked yet."""
    async with open_operations_api(settings) as api:
        yield OnlineDesk(api)


@asynccontextmanager
async def open_operations_api(settings: Settings) -> AsyncIterator[OperationsApi]:
    """Requests to the service that runs with these settings; nothing is asked yet."""
    host = _reachable(settings.operations_host)
    if settings.operations_port == 0:
        raise UnreachableError(
            "no_address",
            "RELAY_OPERATIONS_PORT is 0, so the service chose a port; set the one it printed",
        )
    password = settings.operations_password
    if password is not None:
        word = password.get_secret_value()
    else:
        # Public, and taken only by a service that itself was started with --sandbox.
        word = SANDBOX_PASSWORD if is_loopback(host) else ""
    scheme = "http" if settings.tls_cert is None else "https"
    shown_host = f"[{host}]" if ":" in host else host
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=_TOTAL_S, connect=_CONNECT_S)
    ) as session:
        yield OperationsApi(
            session,
            f"{scheme}://{shown_host}:{settings.operations_port}",
            password=word,
            trust=True if settings.tls_cert is None else _only(settings.tls_cert),
        )


def _reachable(host: str) -> str:
    """Where a listener on `host` is reached from this machine: `0.0.0.0` is everywhere."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "::1" if isinstance(address, IPv6Address) else "127.0.0.1"


def _only(certificate: Path) -> ssl.SSLContext:
    """
    Trust for the settings' own certificate and no other.

    It names the public host rather than the address we use here, so its name cannot be checked;
    being the very same certificate is more than that.
    """
    try:
        text = certificate.read_text("ascii")
        # Only the first of the chain: its issuer vouches for others as well.
        first = text[text.index("-----BEGIN CERTIFICATE") :].partition(_CERTIFICATE_END)[0]
        context = ssl.create_default_context(cadata=first + _CERTIFICATE_END)
    except (OSError, ValueError) as error:
        raise StartupError("tls_files", f"{certificate} cannot be read as PEM") from error
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context


def _why(error: aiohttp.ClientConnectorCertificateError) -> str:
    cause = error.certificate_error
    return cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else "unknown"


def _part(text: str) -> str:
    return quote(text, safe="")
