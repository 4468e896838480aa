"""The doors of a process: its listeners, and who may come in."""

from dataclasses import dataclass

from service.domain.clock import SteadyClock
from service.settings import Settings
from service.web.authentication import BasicAuthentication, LoginThrottle
from service.web.dispatch import Router
from service.web.listeners import Listener, ListenerConfig, load_tls
from service.web.loyalty import LoyaltyConfig
from service.web.operations_door import OPERATOR
from service.web.tokens import TokenAuthentication


@dataclass(frozen=True, slots=True)
class Listeners:
    """The doors of the process."""

    public: Listener | None
    operations: Listener
    _scheme: str
    _public_host: str
    _operations_host: str

    @classmethod
    def of(cls, settings: Settings, *, public: Router | None, operations: Router) -> "Listeners":
        """The listeners as the settings want them, not started yet; without `public` one only."""
        tls = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            tls = load_tls(settings.tls_cert, settings.tls_key)
        public_listener = None
        if public is not None:
            config = ListenerConfig(
                "public",
                settings.http_host,
                settings.http_port,
                "RELAY_HTTP_PORT",
                max_connections=settings.max_connections,
                tls=tls,
            )
            public_listener = Listener(config, public)
        return cls(
            public_listener,
            Listener(
                ListenerConfig(
                    "operations",
                    settings.operations_host,
                    settings.operations_port,
                    "RELAY_OPERATIONS_PORT",
                    tls=tls,
                ),
                operations,
            ),
            "https" if tls else "http",
            settings.http_host,
            settings.operations_host,
        )

    @property
    def public_url(self) -> str:
        """Base address of the public listener, in a process that has one."""
        assert self.public is not None
        return f"{self._scheme}://{_bracketed(self._public_host)}:{self.public.port}"

    @property
    def operations_url(self) -> str:
        """Base address of the operations listener."""
        return f"{self._scheme}://{_bracketed(self._operations_host)}:{self.operations.port}"

    async def start(self) -> None:
        """Listen. Raises: StartupError."""
        await self.operations.start()
        if self.public is not None:
            await self.public.start()

    async def stop_public(self, grace_s: float) -> None:
        """Take no more webhooks, and answer those in hand."""
        if self.public is not None:
            await self.public.stop(grace_s=grace_s)

    async def stop(self, grace_s: float) -> None:
        """Stop what still listens."""
        await self.stop_public(grace_s)
        await self.operations.stop(grace_s=grace_s)


def webhook_logins(settings: Settings, clock: SteadyClock) -> BasicAuthentication:
    return BasicAuthentication(
        [(user, password.get_secret_value()) for user, password in settings.webhook_credentials],
        realm="webhooks",
        throttle=LoginThrottle(clock),
    )


def loyalty_tokens(settings: Settings, clock: SteadyClock) -> TokenAuthentication:
    return TokenAuthentication(
        [(operation, token.get_secret_value()) for operation, token in settings.loyalty_tokens],
        throttle=LoginThrottle(clock),
    )


def loyalty_config(settings: Settings) -> LoyaltyConfig:
    """How the loyalty doors answer."""
    return LoyaltyConfig(
        timeout_s=settings.loyalty_timeout_s,
        body_bytes=settings.body_limit,
        invalid_status=settings.loyalty_invalid_status,
        rate_fields=settings.loyalty_rate_fields,
    )


def operator_login(settings: Settings, clock: SteadyClock) -> BasicAuthentication | None:
    """None without a password: then nothing can be changed."""
    if settings.operations_password is None:
        return None
    return BasicAuthentication(
        [(OPERATOR, settings.operations_password.get_secret_value())],
        realm="operations",
        throttle=LoginThrottle(clock),
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
