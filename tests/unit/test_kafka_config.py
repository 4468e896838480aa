"""From the settings to the configuration of the log on Kafka."""

from pathlib import Path

import pytest

from service.configuration import kafka_config
from service.domain.records import PublicTopic, Topic
from service.eventlog.kafka_config import KafkaConfig, Mechanism
from service.settings import load_settings


def config_from(**variables: str) -> KafkaConfig | None:
    environ = {f"RELAY_{name}": text for name, text in variables.items()}
    return kafka_config(load_settings(environ, serving=False))


def test_a_log_in_a_file_has_none() -> None:
    assert config_from() is None


def test_servers_alone_are_enough() -> None:
    config = config_from(LOG_URL="kafka://a:1,b")
    assert config == KafkaConfig(servers=("a:1", "b:9092"))
    assert config is not None
    assert config.protocol == "PLAINTEXT"
    assert config.name(Topic.ORDERS) == "scayle.orders.v1"
    assert config.group == "loyalty-relay"


def test_everything_that_is_set_arrives(tmp_path: Path) -> None:
    files = {}
    for name in ("KAFKA_CA", "KAFKA_CERT", "KAFKA_KEY"):
        files[name] = tmp_path / name
        files[name].write_text("pem")
    config = config_from(
        LOG_URL="kafka://a",
        TOPIC_PREFIX="shop.",
        KAFKA_USER="relay",
        KAFKA_PASSWORD="hidden",
        KAFKA_MECHANISM="scram-sha-256",
        KAFKA_TLS="1",
        KAFKA_INSTANCE="relay-1",
        **{name: str(path) for name, path in files.items()},
    )
    assert config == KafkaConfig(
        servers=("a:9092",),
        prefix="shop.",
        group_instance_id="relay-1",
        user="relay",
        password="hidden",
        mechanism=Mechanism.SCRAM_SHA_256,
        tls=True,
        ca_file=files["KAFKA_CA"],
        cert_file=files["KAFKA_CERT"],
        key_file=files["KAFKA_KEY"],
    )
    assert config is not None
    assert "hidden" not in repr(config) + config.described()
    assert config.name(PublicTopic.OUTCOMES) == "shop.loyalty.outcomes.v1"
    assert config.group == "shop.loyalty-relay"


@pytest.mark.parametrize(
    ("user", "tls", "protocol"),
    [
        (None, False, "PLAINTEXT"),
        (None, True, "SSL"),
        ("relay", False, "SASL_PLAINTEXT"),
        ("relay", True, "SASL_SSL"),
    ],
)
def test_the_protocol_follows_from_what_is_set(user: str | None, tls: bool, protocol: str) -> None:
    assert KafkaConfig(servers=("a:1",), user=user, tls=tls).protocol == protocol
