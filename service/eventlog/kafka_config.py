"""How to reach Kafka: servers, names, time limits and security."""

import ssl
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from service.domain.errors import StartupError
from service.domain.records import PublicTopic, Topic

GROUP: Final = "loyalty-relay"

# How long a client believes what it knows of topics and leaders; new partitions are seen by then.
_METADATA_AGE_MS: Final = 60_000


class Mechanism(StrEnum):
    """How a user proves itself; values as Kafka spells them."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """
    One Kafka cluster and our place in it.

    Args:
        servers: `host:port` of some brokers; the others are learnt from them.
        prefix: stands before every topic's name and before the consumer group.
        publish_deadline_s: how long an append may wait for its acknowledgement.
        session_timeout_s: silence after which the group gives a reader's streams to others.
        group_instance_id: makes this process a static member: a restart within the session
            time-out moves no streams. One id belongs to one process.
        user, password, mechanism: for SASL; no user, no SASL.
        tls: whether connections are encrypted; the files are PEM, `ca_file` replaces the
            system's authorities, certificate and key show who we are.
    """

    servers: tuple[str, ...]
    prefix: str = ""
    publish_deadline_s: float = 2.0
    session_timeout_s: float = 6.0
    client_id: str = "loyalty-relay"
    group_instance_id: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    mechanism: Mechanism = Mechanism.SCRAM_SHA_512
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def group(self) -> str:
        """The consumer group of all readers."""
        return self.prefix + GROUP

    @property
    def protocol(self) -> str:
        """Kafka's name for the security in use."""
        if self.user is None:
            return "SSL" if self.tls else "PLAINTEXT"
        return "SASL_SSL" if self.tls else "SASL_PLAINTEXT"

    def name(self, topic: Topic | PublicTopic) -> str:
        """The topic as the cluster knows it."""
        return self.prefix + topic.value

    def described(self) -> str:
        """Where and how, for people; no secret."""
        return f"{', '.join(self.servers)} ({self.protocol})"


def connection_arguments(config: KafkaConfig, *, request_timeout_s: float) -> dict[str, Any]:
    """
    What every aiokafka client is made with.

    Raises: StartupError `kafka_tls_files` when a file cannot be read or used.
    """
    arguments: dict[str, Any] = {
        "bootstrap_servers": list(config.servers),
        "client_id": config.client_id,
        "request_timeout_ms": int(request_timeout_s * 1000),
        "metadata_max_age_ms": _METADATA_AGE_MS,
        "security_protocol": config.protocol,
    }
    if config.tls:
        arguments["ssl_context"] = _ssl_context(config)
    if config.user is not None:
        arguments |= {
            "sasl_mechanism": config.mechanism.value,
            "sasl_plain_username": config.user,
            "sasl_plain_password": config.password or "",
        }
    return arguments


def _ssl_context(config: KafkaConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
        if config.cert_file is not None:
            context.load_cert_chain(config.cert_file, config.key_file)
    except OSError as error:  # an SSLError is one
        raise StartupError("kafka_tls_files", str(error)) from error
    return context
