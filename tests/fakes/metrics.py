"""Reading metrics in tests."""

from service.telemetry.metrics import Metrics


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """The value of one series; a series that does not exist is a mistake of the test."""
    found = metrics.registry.get_sample_value(name, labels)
    assert found is not None, f"no series {name} {labels}"
    return found
