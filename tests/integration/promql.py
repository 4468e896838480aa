"""Compares PromQL with the metrics that the service exports."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

import promql_parser
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics import MetricWrapperBase

from service.telemetry.metrics import Metrics

TARGET_LABELS: Final = frozenset({"job", "namespace", "instance", "component"})
"""Labels that the scrape adds."""

Exported = Mapping[str, Mapping[str, frozenset[str] | None]]
"""By name of a sample: its labels with their values, None for values that are not a closed set."""


def exported() -> Exported:
    """All samples of the service, and `up`, which Prometheus makes itself."""
    found: dict[str, dict[str, frozenset[str] | None]] = {"up": {}}
    registry = CollectorRegistry()
    for metric in vars(Metrics(registry)).values():
        if not isinstance(metric, MetricWrapperBase):
            continue
        (family,) = metric.collect()
        is_open = bool(metric._labelnames) and not family.samples
        if is_open:
            metric.labels(*metric._labelnames)
            (family,) = metric.collect()
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                known = labels.get(name) or frozenset()
                labels[name] = None if is_open else known | {value}
    for family in ProcessCollector(registry=CollectorRegistry()).collect():
        found |= {sample.name: {} for sample in family.samples}
    return found


def problems(query: str, known: Exported) -> Iterator[str]:
    """What `query` names that the service does not export; a parse error raises ValueError."""
    nodes: list[promql_parser.Expr] = []
    tree = promql_parser.parse(_without_variables(query))
    promql_parser.walk(tree, pre_visit=nodes.append)
    selectors = [node for node in nodes if isinstance(node, promql_parser.VectorSelector)]
    if not selectors:
        yield f"{query}: selects nothing"
    labels = set(TARGET_LABELS)
    for selector in selectors:
        name = selector.name
        if name is None or name not in known:
            yield f"{name} is not exported"
            continue
        labels |= known[name].keys()
        for matcher in selector.matchers.matchers:
            yield from _mismatches(name, matcher, known[name])
    for node in nodes:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            for label in set(node.modifier.labels) - labels:
                yield f"{query}: groups by {label}, which nothing has"


def legend_labels(legend: str) -> frozenset[str]:
    """The labels that a Grafana legend or a Prometheus annotation names."""
    return frozenset(re.findall(r"\{\{\s*(?:or )?(?:\$labels\.)?([a-z_]+)", legend)) - {"or"}


def _mismatches(
    name: str, matcher: promql_parser.Matcher, labels: Mapping[str, frozenset[str] | None]
) -> Iterator[str]:
    if matcher.name in TARGET_LABELS:
        return
    if matcher.name not in labels:
        yield f"{name} has no label {matcher.name}"
        return
    values = labels[matcher.name]
    if values is None:
        return
    is_pattern = matcher.op in (promql_parser.MatchOp.Re, promql_parser.MatchOp.NotRe)
    for value in matcher.value.split("|") if is_pattern else [matcher.value]:
        if not any(re.fullmatch(value, one) if is_pattern else value == one for one in values):
            yield f"{name}: {matcher.name} is never {value}"


def _without_variables(query: str) -> str:
    return query.replace("$__rate_interval", "5m").replace("$__range", "1h")
