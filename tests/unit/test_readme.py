"""The README's tables say what the code says."""

import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from typer.main import get_command

from service.cli.main import app
from service.sandbox.behaviours import behaviours_as_markdown
from service.settings import describe, load_settings
from service.telemetry.metrics import Metrics

README = (Path(__file__).parents[2] / "README.md").read_text()


def section(tag: str) -> list[str]:
    """The lines between two markers of the README."""
    found = re.search(rf"<!-- {tag} -->\n(.*?)<!-- /{tag} -->", README, re.DOTALL)
    assert found is not None, f"no section {tag}"
    return found[1].strip().splitlines()


def test_settings_table_names_every_setting_with_default_and_meaning() -> None:
    expected = [
        f"| `{row.name}` | `{row.value}` | {row.description} |"
        for row in describe(load_settings({}, serving=False))
    ]
    assert section("settings")[2:] == expected


def test_metrics_table_names_every_metric_with_labels_and_help() -> None:
    metrics = Metrics(CollectorRegistry())
    expected = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in metric._labelnames) or "–"
            expected[name] = (labels, family.documentation)
    rows = {}
    for line in section("metrics")[2:]:
        name, labels, meaning = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name.removesuffix(" ▲").strip("`")] = (labels, meaning)
    assert rows == expected


def test_sandbox_table_is_that_of_the_sandbox() -> None:
    assert section("sandbox") == behaviours_as_markdown().strip().splitlines()


def test_commands_table_names_every_command() -> None:
    command = get_command(app)
    known = set()
    for name, sub in command.commands.items():  # type: ignore[attr-defined]
        inner = getattr(sub, "commands", None)
        known |= {f"{name} {each}" for each in inner} if inner else {name}
    named = {
        name[0]
        for line in section("commands")[2:]
        if (name := re.match(r"[a-z-]+(?: [a-z]+)?", line.split("`")[1]))
    }
    assert named == known
