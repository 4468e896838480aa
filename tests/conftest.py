"""What holds for all tests."""

from hypothesis import HealthCheck, settings

from tests.harness.infrastructure import (
    kafka_jars,
    kafka_server,
    make_kafka_server,
    postgres_server,
    private_postgres,
)

__all__ = [
    "kafka_jars",
    "kafka_server",
    "make_kafka_server",
    "postgres_server",
    "private_postgres",
]

# The same examples in every run, and no judgement of speed: machines differ.
settings.register_profile(
    "relay", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("relay")
