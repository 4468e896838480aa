"""What Kafka's refusals mean to who appends."""

from typing import Final

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from service.domain.errors import LogUnavailableError, PermanentError, RelayError

# Refusals that the same record meets again whenever it is sent; all others pass.
_FOR_GOOD: Final[dict[type[Exception], str]] = {
    MessageSizeTooLargeError: "too_large",
    RecordListTooLargeError: "too_large",
    TopicAuthorizationFailedError: "not_authorised",
    ClusterAuthorizationFailedError: "not_authorised",
    InvalidTopicError: "invalid_topic",
    UnknownTopicOrPartitionError: "unknown_topic",
}
REFUSED_RETRY_S: Final = 1.0


def translated(error: KafkaError, *, topic: str) -> RelayError:
    """
    `error` of an append as what its caller does next; its cause is set by `raise … from`.

    With an idempotent producer whatever is `retriable` is tried again by aiokafka itself, so
    what comes here is a refusal: for good where the table says so, else of this moment.
    """
    detail = f"{topic}: {error}"
    for kind, reason in _FOR_GOOD.items():
        if isinstance(error, kind):
            return PermanentError(reason, detail)
    return LogUnavailableError("refused", detail, retry_after_s=REFUSED_RETRY_S)


def described(error: BaseException) -> str:
    """An error's kind and text on one line, for logs and for people."""
    return " ".join(f"{type(error).__name__}: {error}".split())
