"""SASL and TLS to Kafka, each really asked for by the broker."""

from dataclasses import replace

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest

from service.domain.errors import LogUnavailableError, PermanentError, StartupError
from service.eventlog.kafka import KafkaConfig
from service.eventlog.kafka_config import Mechanism
from service.eventlog.kafka_topics import check_topics
from tests.harness.infrastructure import MakeKafkaServer
from tests.harness.kafka_server import PASSWORD, STRANGER, USER
from tests.integration.kafka_log import (
    config_of,
    make_topics,
    open_log,
    order,
    plans_of,
    read_all,
)

# The protocol's numbers.
_TOPIC, _LITERAL, _WRITE, _ALLOW = 2, 3, 4, 3


async def works(config: KafkaConfig, number: int) -> None:
    """Write, read and administer with `config`."""
    async with open_log(config) as log:
        await log.append(order(number))
        assert str(number) in [record.key for record in await read_all(log)]
    assert not await check_topics(config, plans_of(config))


async def allow_to_write(config: KafkaConfig, user: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=list(config.servers))
    await admin.start()
    try:
        request = CreateAclsRequest(_TOPIC, topic, _LITERAL, f"User:{user}", "*", _WRITE, _ALLOW)
        [[code, _]] = (await admin._send_request(request)).creation_responses
        assert code == 0
    finally:
        await admin.close()


async def test_every_way_to_prove_who_we_are_works_and_no_wrong_one_does(
    make_kafka_server: MakeKafkaServer,
) -> None:
    """One broker for all of it, as it takes seconds to start."""
    server = make_kafka_server(secure=True)
    certificates = server.certificates
    assert certificates is not None
    plain = config_of(server)
    await make_topics(plain)
    sasl = replace(plain, servers=(f"127.0.0.1:{server.ports.sasl}",), user=USER, password=PASSWORD)
    tls = replace(
        plain,
        servers=(f"127.0.0.1:{server.ports.tls}",),
        tls=True,
        ca_file=certificates.ca,
        cert_file=certificates.client_cert,
        key_file=certificates.client_key,
    )
    both = replace(
        sasl, servers=(f"127.0.0.1:{server.ports.sasl_tls}",), tls=True, ca_file=certificates.ca
    )
    right = [*(replace(sasl, mechanism=each) for each in Mechanism), tls, both]
    for number, config in enumerate(right):
        await works(config, number)

    wrong = [
        *(replace(sasl, mechanism=each, password="another") for each in Mechanism),
        replace(sasl, user=None, password=None),  # SASL is not optional there
        replace(tls, cert_file=None, key_file=None),
        replace(tls, ca_file=None),  # no authority of this machine signed it
        replace(both, password="another"),
        replace(both, tls=False, ca_file=None),
    ]
    for config in wrong:
        brief = replace(config, publish_deadline_s=1.0)
        with pytest.raises(StartupError) as caught:
            async with open_log(brief, connect_s=1.5):
                pass
        assert caught.value.reason == "log_not_reachable", brief.described()
        assert "another" not in str(caught.value)
        if config.password == "another":
            # The reason is told, not only that there was one.
            assert "uthentication" in caught.value.detail

    missing = replace(tls, ca_file=certificates.ca.with_name("missing"))
    with pytest.raises(StartupError) as caught:
        async with open_log(missing):
            pass
    assert caught.value.reason == "kafka_tls_files"

    # One who may write, but not to our topics.
    await allow_to_write(plain, STRANGER, "elsewhere")
    stranger = replace(sasl, user=STRANGER)
    async with open_log(stranger) as log:
        with pytest.raises(PermanentError) as refused:
            await log.append(order(1))
        assert refused.value.reason == "not_authorised"
        with pytest.raises(LogUnavailableError):
            await log.end_positions()
