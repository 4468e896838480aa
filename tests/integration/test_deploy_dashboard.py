"""The Grafana dashboard: well-formed, and about metrics that exist."""

import json
from collections.abc import Iterator
from typing import Any

from tests.integration.deploy_files import DASHBOARD, DEPLOY, read_yaml
from tests.integration.promql import TARGET_LABELS, exported, legend_labels, problems

DOCUMENT = json.loads(DASHBOARD.read_text())
PANELS = DOCUMENT["panels"]
CHARTS = [panel for panel in PANELS if panel["type"] != "row"]


def datasources(node: Any) -> Iterator[Any]:
    """Every data source that `node` or anything in it names."""
    if isinstance(node, dict):
        if "datasource" in node:
            yield node["datasource"]
        for value in node.values():
            yield from datasources(value)
    elif isinstance(node, list):
        for value in node:
            yield from datasources(value)


def test_panels_have_an_id_and_a_place_of_their_own() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


def test_rows_tell_the_story_in_order() -> None:
    assert [panel["title"] for panel in PANELS if panel["type"] == "row"] == [
        "Promises at a glance",
        "Webhooks",
        "Checkout",
        "Log and spool",
        "Ledger and effects",
        "Splio and limits",
        "Process",
    ]


def test_every_panel_says_what_it_shows_and_in_which_unit() -> None:
    titles = [panel["title"] for panel in CHARTS]
    assert len(set(titles)) == len(titles)
    for panel in CHARTS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)


def test_data_source_is_the_variable_everywhere() -> None:
    variables = {variable["name"]: variable["type"] for variable in DOCUMENT["templating"]["list"]}
    assert variables == {"datasource": "datasource", "job": "query"}
    wanted = {"type": "prometheus", "uid": "${datasource}"}
    assert all(source == wanted for source in datasources(DOCUMENT))
    (provisioned,) = read_yaml(
        DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml"
    )["datasources"]
    assert provisioned["type"] == "prometheus"


def test_queries_name_only_what_the_service_exports() -> None:
    known = exported()
    found: list[str] = []
    for panel in CHARTS:
        for target in panel["targets"]:
            assert 'job=~"$job"' in target["expr"], panel["title"]
            found += problems(target["expr"], known)
    assert found == []


def test_legends_name_labels_that_exist() -> None:
    labels = set(TARGET_LABELS).union(*exported().values())
    for panel in CHARTS:
        for target in panel["targets"]:
            if target["legendFormat"] != "__auto":
                assert legend_labels(target["legendFormat"]) <= labels, panel["title"]


def test_every_metric_is_on_the_dashboard() -> None:
    text = " ".join(target["expr"] for panel in CHARTS for target in panel["targets"])
    names = {
        name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
        for name in exported()
        if name.startswith("relay_") and not name.endswith("_created")
    }
    assert sorted(name for name in names if name not in text) == []
