"""The alert rules: valid, tested, about metrics that exist, each with a section in the runbook."""

import re
from typing import Any, Final

import pytest

from tests.integration.deploy_files import (
    COMPOSE,
    README,
    RULES,
    RULES_TESTS,
    SCRAPE,
    alerts,
    passes,
    read_yaml,
    run,
    tool,
)
from tests.integration.promql import exported, legend_labels, problems

# What the rules need said about the process; a rule for each of these must exist.
WATCHED: Final = (
    "relay_ready",
    "relay_webhooks_total",
    "relay_lane_paused",
    "relay_lane_braked",
    "relay_breaker_open",
    "relay_suspected_doubles_total",
    "relay_ledger_entries",
    "relay_oldest_open_timestamp_seconds",
    "relay_dead_letters_open",
    "relay_oldest_unseen_credit_timestamp_seconds",
    "relay_spooling",
    "relay_spool_bytes",
    "relay_spool_oldest_timestamp_seconds",
    "relay_spool_set_aside_records",
    "relay_oldest_outbox_timestamp_seconds",
    "relay_log_connected",
    "relay_streams_out_of_range",
    "relay:consumer_lag_records:sum",
    "relay_storage_low",
    "relay_ledger_available",
    "relay_clock_drift_seconds",
    "relay_splio_requests_total",
    "relay:event_loop_lag_seconds:p99",
    "relay_records_skipped_total",
    "relay_loyalty_calls_total",
    "relay_balance_answers_total",
    "relay_captures_over_balance_total",
    "relay_collects_missing",
)


def recorded() -> dict[str, str]:
    """The recording rules: name and expression."""
    return {
        rule["record"]: rule["expr"]
        for group in read_yaml(RULES)["groups"]
        for rule in group["rules"]
        if "record" in rule
    }


def firing(alert: str) -> list[dict[str, Any]]:
    """What the unit tests expect of `alert`, one entry an evaluation."""
    return [
        check
        for path in RULES_TESTS
        for group in read_yaml(path)["tests"]
        for check in group.get("promql_expr_test", [])
        if f'"{alert}"' in check["expr"]
    ]


def test_promtool_accepts_rules_and_scrape_configuration() -> None:
    promtool = tool("promtool")
    passes(promtool, "check", "rules", RULES)
    passes(promtool, "check", "config", SCRAPE)


def test_alerts_fire_when_they_should_and_only_then() -> None:
    passes(tool("promtool"), "test", "rules", *RULES_TESTS, cwd=RULES.parent)


@pytest.mark.slow
def test_unit_tests_of_the_rules_can_fail(tmp_path: Any) -> None:
    """They compare with what the rules say: rules that never fire do not pass."""
    text, count = re.subn(r"for: \d+[mh]\n", "for: 90d\n", RULES.read_text())
    assert count > 20
    (tmp_path / "rules.yaml").write_text(text)
    copies = [tmp_path / path.name for path in RULES_TESTS]
    for path, copy in zip(RULES_TESTS, copies, strict=True):
        copy.write_text(path.read_text())
    done = run(tool("promtool"), "test", "rules", *copies, cwd=tmp_path)
    assert done.returncode != 0
    for rule in alerts():
        assert "for" not in rule or f'alertname="{rule["alert"]}"' in done.stdout + done.stderr


def test_rules_name_only_what_the_service_exports() -> None:
    known = exported()
    found = [problem for expr in recorded().values() for problem in problems(expr, known)]
    own = {
        "relay:consumer_lag_records:sum": {"topic": None},
        "relay:event_loop_lag_seconds:p99": {},
    }
    assert own.keys() == recorded().keys()
    for rule in alerts():
        found += problems(rule["expr"], {**known, **own})
    assert found == []


def test_what_must_be_watched_is_watched() -> None:
    expressions = " ".join(rule["expr"] for rule in alerts())
    assert [name for name in WATCHED if not re.search(rf"{name}\b", expressions)] == []


def test_metrics_marked_for_alarm_are_watched() -> None:
    marked = set(re.findall(r"\| `(relay_\w+)` ▲", README))
    text = " ".join([*(rule["expr"] for rule in alerts()), *recorded().values()])
    watched = set(re.findall(r"relay_[a-z_]+", text.replace("_bucket", "")))
    assert marked - watched == set()


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_alert_is_fit_for_the_night(rule: dict[str, Any]) -> None:
    name = rule["alert"]
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    words = rule["annotations"]
    assert words.keys() == {"summary", "description", "runbook"}
    assert words["runbook"] == f"README.md#{name.lower()}"
    heading = re.search(rf"^### {name}\n\n(\w+)\. .*?^- Look.*?^- Do", README, re.M | re.S)
    assert heading is not None and heading[1].lower() == rule["labels"]["severity"]
    expected = [sample["exp_samples"] for sample in firing(name)]
    assert any(expected), "no test in which it fires"
    assert not all(expected), "no test in which it is silent"
    # A label that the alert does not carry would read "<no value>".
    carried = {
        label
        for samples in expected
        for sample in samples
        for label in re.findall(r"(\w+)=\"", sample["labels"])
    }
    named = legend_labels(words["summary"]) | legend_labels(words["description"])
    assert named <= carried


def test_runbook_has_no_section_without_an_alert() -> None:
    (runbook,) = re.findall(r"^## Runbook\n(.*?)^## ", README, re.M | re.S)
    assert re.findall(r"^### (\w+)$", runbook, re.M) == [rule["alert"] for rule in alerts()]


def test_scraped_targets_are_processes_of_the_compose_stack() -> None:
    services = read_yaml(COMPOSE)["services"]
    (relay, _) = read_yaml(SCRAPE)["scrape_configs"]
    assert relay["job_name"] == "loyalty-relay"
    targets = [target for static in relay["static_configs"] for target in static["targets"]]
    inside = set()
    for service in services.values():
        if service.get("command") in (["receive"], ["consume"]):
            host = service["network_mode"].removeprefix("service:")
            inside.add(f"{host}:{service['environment']['RELAY_OPERATIONS_PORT']}")
    assert set(targets) == inside
