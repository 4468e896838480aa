"""Errors by what the caller does next."""


class RelayError(Exception):
    """Base of the errors that this service raises on purpose; `reason` is a short stable slug."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class RetryableError(RelayError):
    """
    Send the same request again after a backoff: nothing took effect.

    `retry_after_s` is the least time to wait when the other side named one; `status` is its
    HTTP status, None when no answer came.
    """

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        retry_after_s: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(reason, detail)
        self.retry_after_s = retry_after_s
        self.status = status


class PermanentError(RelayError):
    """Make a dead letter of it: a documented refusal that no repetition changes."""

    def __init__(self, reason: str, detail: str = "", *, status: int | None = None) -> None:
        super().__init__(reason, detail)
        self.status = status


class PayloadMismatchError(PermanentError):
    """Make a dead letter of it: Splio holds something else under the same identity."""


class LanePausedError(RelayError):
    """
    Stop sending in this lane, keep the effect, alarm: a refusal that nobody documented.

    Typical cause: a wrong address, a wrong key, a changed contract.
    """

    def __init__(self, reason: str, detail: str = "", *, status: int | None = None) -> None:
        super().__init__(reason, detail)
        self.status = status


class InDoubtError(RelayError):
    """Mark the effect in doubt and look it up: the request may have taken effect."""

    def __init__(self, reason: str, detail: str = "", *, status: int | None = None) -> None:
        super().__init__(reason, detail)
        self.status = status


class PoisonMessageError(RelayError):
    """Make a dead letter of the record without an attempt: it cannot be decoded or validated."""


class LogUnavailableError(RelayError):
    """Refuse the webhook with 503 and `Retry-After`: nothing durable can take its event now."""

    def __init__(self, reason: str, detail: str = "", *, retry_after_s: float = 1.0) -> None:
        super().__init__(reason, detail)
        self.retry_after_s = retry_after_s


class LedgerUnavailableError(RelayError):
    """Wait and do the same again: the ledger could not commit (disk full, read only, busy)."""


class StartupError(RelayError):
    """Do not start; tell the operator what to change: another process, schema, tenant, file."""


class WrongStateError(RelayError):
    """Tell the caller: the effect or dead letter is not in a state that allows this."""


class NotFoundError(RelayError):
    """Tell the caller: there is no such effect, order or dead letter."""
