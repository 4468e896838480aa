from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.sandbox.deliveries import DeliveryFileError, DeliveryPlan, arrange, read_deliveries
from service.sandbox.scayle import generate_orders

ORDERS = list(generate_orders(3, 300))


def ids(envelopes: Any) -> list[int]:
    return [int(envelope["payload"]["id"]) for envelope in envelopes]


def test_deliveries_come_in_order_by_default() -> None:
    assert list(arrange(ORDERS, DeliveryPlan())) == ORDERS


def test_reordering_keeps_within_its_window() -> None:
    arranged = ids(arrange(ORDERS, DeliveryPlan(reordering=10)))
    assert sorted(arranged) == ids(ORDERS)
    assert arranged != ids(ORDERS)
    assert (
        max(abs(place - arranged.index(number)) for place, number in enumerate(ids(ORDERS))) <= 10
    )


def test_duplicates_come_after_their_first() -> None:
    plan = DeliveryPlan(duplicates=0.5, reordering=5)
    arranged = list(arrange(ORDERS, plan))
    assert 400 < len(arranged) < 500
    assert set(ids(arranged)) == set(ids(ORDERS))
    # Half of the second deliveries are spelled differently.
    repeats = len(arranged) - len(ORDERS)
    respelled = sum(envelope not in ORDERS for envelope in arranged)
    assert repeats / 3 < respelled < repeats * 2 / 3
    assert list(arrange(ORDERS, plan)) == arranged


@pytest.mark.parametrize(
    ("content", "count"),
    [
        ('{"type": "a"}', 1),
        ('{\n  "type": "a"\n}\n', 1),
        ('[{"type": "a"}, {"type": "b"}]', 2),
        ('{"type": "a"}\n\n{"type": "b"}\r\n{"type": "c"}', 3),
        ("[]", 0),
    ],
)
def test_files_of_deliveries(tmp_path: Path, content: str, count: int) -> None:
    path = tmp_path / "deliveries"
    path.write_text(content)
    assert len(read_deliveries(path)) == count


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "the file is empty"),
        (" \n", "the file is empty"),
        ('{"type": "a"}\n{"type": \n{"type": "c"}', "line 2: "),
        ('{"type": "a"}\n[1]', "line 2 is not a JSON object"),
        ('{\n"type": "a",\n}', "line 2: "),
        ('[{"type": "a"}, 3]', "element 2 is not a JSON object"),
        ("17", "line 1 is not a JSON object"),
        ("type=a", "line 1: "),
    ],
)
def test_broken_file_names_the_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "deliveries"
    path.write_text(content)
    with pytest.raises(DeliveryFileError, match=says):
        read_deliveries(path)
