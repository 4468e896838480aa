"""The Helm chart: renders, is valid for Kubernetes, and keeps what the README says of it."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from service.settings import load_settings
from tests.integration.deploy_files import (
    CHART,
    DASHBOARD,
    RULES,
    passes,
    read_yaml,
    run,
    tool,
)

# A helm that `go install` built takes itself for one of Kubernetes 1.20.
KUBE_VERSION: Final = "1.31.0"
VALIDATED: Final = ("1.27", "1.37")
VALUES: Final = ("least", "full")
# Kinds of the Prometheus operator, for which the validator has no schema.
WITHOUT_SCHEMA: Final = {"ServiceMonitor", "PrometheusRule"}

SECRET_FILES: Final = {
    "receiver": {"webhook-credentials", "operations-password"},
    "consumer": {"ledger-url", "splio-api-key", "operations-password"},
    "setup": {"ledger-url"},
}
# What `full` gives more, as it speaks to Kafka with a password and answers loyalty calls.
MORE_SECRET_FILES: Final = {
    "receiver": {"kafka-password", "loyalty-tokens", "ledger-url", "splio-api-key"},
    "consumer": {"kafka-password"},
    "setup": {"kafka-password"},
}
SECRETS: Final = {
    "webhook-credentials": "scayle:a-long-password",
    "operations-password": "a-long-password",
    "ledger-url": "postgresql://relay:password@host/relay",
    "splio-api-key": "the-key-of-the-universe",
    "kafka-password": "a-long-password",
    "loyalty-tokens": "balance=a-long-token,capture=another-token",
}
WITHOUT_LOYALTY: Final = ("--set", "loyalty.enabled=false")


@functools.cache
def rendered(values: str, *more: str) -> str:
    """What helm makes of the chart with `ci/VALUES-values.yaml`."""
    return passes(
        tool("helm"), "template", "shop", CHART, "--kube-version", KUBE_VERSION,
        "--values", CHART / "ci" / f"{values}-values.yaml", *more,
    )  # fmt: skip


def objects(values: str, *more: str) -> list[dict[str, Any]]:
    """The rendered objects."""
    return [one for one in yaml.safe_load_all(rendered(values, *more)) if one]


def pods(values: str, *more: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Component and pod specification of everything that runs."""
    for one in objects(values, *more):
        if one["kind"] in ("StatefulSet", "Deployment", "Job"):
            labels = one["spec"]["template"]["metadata"]["labels"]
            yield labels["app.kubernetes.io/component"], one["spec"]["template"]["spec"]


def environment(pod: dict[str, Any]) -> dict[str, str]:
    """The variables of the one container of a pod."""
    (container,) = pod["containers"]
    return {one["name"]: one["value"] for one in container["env"]}


def only(values: str, kind: str, *more: str) -> dict[str, Any]:
    """The one object of a kind."""
    (found,) = [one for one in objects(values, *more) if one["kind"] == kind]
    return found


@pytest.mark.parametrize("values", VALUES)
def test_helm_lint_finds_nothing(values: str) -> None:
    file = CHART / "ci" / f"{values}-values.yaml"
    passes(
        tool("helm"), "lint", CHART, "--strict", "--kube-version", KUBE_VERSION, "--values", file
    )


@pytest.mark.parametrize("version", VALIDATED)
@pytest.mark.parametrize("values", VALUES)
def test_kubernetes_accepts_what_is_rendered(values: str, version: str, tmp_path: Path) -> None:
    file = tmp_path / "rendered.yaml"
    validated = [one for one in objects(values) if one["kind"] not in WITHOUT_SCHEMA]
    assert len(validated) >= 8
    file.write_text(yaml.safe_dump_all(validated))
    done = run(tool("kubernetes-validate"), "-k", version, "--strict", "--quiet", file)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("values", VALUES)
def test_every_process_runs_without_rights(values: str) -> None:
    found = dict(pods(values))
    assert found.keys() == {"receiver", "consumer", "setup"}
    for pod in found.values():
        assert pod["automountServiceAccountToken"] is False
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True and security["runAsUser"] == 10001
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"] and container["resources"]["limits"]
            assert "/data" in {mount["mountPath"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize("values", VALUES)
def test_each_role_gets_its_own_secrets_as_files_only(values: str) -> None:
    for component, pod in pods(values):
        (volume,) = [one for one in pod["volumes"] if one["name"] == "secrets"]
        items = [item for one in volume["projected"]["sources"] for item in one["secret"]["items"]]
        paths = {item["path"] for item in items}
        more = MORE_SECRET_FILES[component] if values == "full" else set()
        assert paths == SECRET_FILES[component] | more
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            for variable in container["env"]:
                assert "valueFrom" not in variable
                if variable["name"].endswith("_FILE"):
                    folder, _, name = variable["value"].rpartition("/")
                    assert folder == "/run/relay/secrets" and name in paths


@pytest.mark.parametrize("values", VALUES)
def test_service_accepts_the_settings_of_each_role(values: str, tmp_path: Path) -> None:
    for folder, files in (("secrets", SECRETS), ("kafka-ca", {"ca.crt": "a certificate"})):
        (tmp_path / folder).mkdir()
        for name, text in files.items():
            (tmp_path / folder / name).write_text(text)
    for component, pod in pods(values):
        if component == "setup":
            continue
        env = {
            name: value.replace("/run/relay", str(tmp_path))
            for name, value in environment(pod).items()
        }
        receives = component == "receiver"
        settings = load_settings(env, takes_webhooks=receives, takes_effect=not receives)
        assert settings.warnings == ()
        assert bool(settings.loyalty_tokens) is (receives and values == "full")
        assert bool(settings.loyalty_programs) is (values == "full")


def test_loyalty_values_reach_both_roles_also_while_no_calls_are_answered() -> None:
    """Debits and holds that are under way outlive the calls."""
    given = read_yaml(CHART / "ci" / "full-values.yaml")["loyalty"]
    wanted = {
        "RELAY_LOYALTY_PROGRAMS": given["programs"],
        "RELAY_LOYALTY_RATES": given["rates"],
        "RELAY_LOYALTY_AMOUNT_UNIT": given["amountUnit"],
        "RELAY_LOYALTY_CARD_FORM": given["cardForm"],
        "RELAY_LOYALTY_INVALID_STATUS": str(given["invalidStatus"]),
        "RELAY_LOYALTY_TIMEOUT": given["timeout"],
        "RELAY_BALANCE_FRESH": given["balanceFresh"],
        "RELAY_DEBIT_BY": given["debitBy"],
        "RELAY_DEBIT_REWARDS": given["debitRewards"],
    }
    for more in ((), WITHOUT_LOYALTY):
        for component, pod in pods("full", *more):
            if component != "setup":
                assert wanted.items() <= environment(pod).items()


def test_receivers_get_ledger_and_splio_only_to_answer_loyalty_calls() -> None:
    receiver = dict(pods("full", *WITHOUT_LOYALTY))["receiver"]
    assert {name for name in environment(receiver) if name.endswith("_FILE")} == {
        "RELAY_WEBHOOK_CREDENTIALS_FILE",
        "RELAY_OPERATIONS_PASSWORD_FILE",
        "RELAY_KAFKA_PASSWORD_FILE",
    }
    egress = {}
    for more in ((), WITHOUT_LOYALTY):
        (policy,) = [
            one
            for one in objects("full", *more)
            if one["kind"] == "NetworkPolicy" and one["metadata"]["name"].endswith("-receiver")
        ]
        rules = policy["spec"]["egress"]
        egress[more] = {port["port"] for rule in rules for port in rule["ports"]} - {53}
    assert egress == {(): {9093, 5432, 443}, WITHOUT_LOYALTY: {9093}}


def test_ingress_takes_what_scayle_sends_and_nothing_else() -> None:
    taken = {}
    for more in ((), WITHOUT_LOYALTY):
        (rule,) = only("full", "Ingress", *more)["spec"]["rules"]
        taken[more] = {path["path"]: path["pathType"] for path in rule["http"]["paths"]}
    webhooks = {"/webhooks/scayle": "Exact"}
    assert taken == {(): {**webhooks, "/loyalty/": "Prefix"}, WITHOUT_LOYALTY: webhooks}


@pytest.mark.parametrize("values", VALUES)
def test_a_stop_leaves_time_for_pre_stop_and_grace(values: str) -> None:
    for component, pod in pods(values):
        (container,) = pod["containers"]
        if component == "setup":
            continue
        env = {one["name"]: one.get("value", "") for one in container["env"]}
        grace = int(env["RELAY_GRACE"].removesuffix("s"))
        waits = (
            int(container["lifecycle"]["preStop"]["exec"]["command"][1])
            if component == "receiver"
            else 0
        )
        assert pod["terminationGracePeriodSeconds"] >= waits + grace + 10


@pytest.mark.parametrize("values", VALUES)
def test_liveness_asks_for_life_and_readiness_for_readiness(values: str) -> None:
    for component, pod in pods(values):
        if component != "setup":
            (container,) = pod["containers"]
            asked = {
                name: container[f"{name}Probe"]["httpGet"]["path"]
                for name in ("startup", "liveness", "readiness")
            }
            assert asked == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}


@pytest.mark.parametrize("values", VALUES)
def test_names_in_one_object_are_found_in_another(values: str) -> None:
    all_objects = objects(values)
    by_kind = {(one["kind"], one["metadata"]["name"]): one for one in all_objects}
    assert len(by_kind) == len(all_objects)
    receiver = only(values, "StatefulSet")
    assert ("Service", receiver["spec"]["serviceName"]) in by_kind
    components = dict(pods(values))
    for one in all_objects:
        if one["kind"] == "Service":
            selected = components[one["spec"]["selector"]["app.kubernetes.io/component"]]
            names = {port["name"] for port in selected["containers"][0]["ports"]}
            assert {port["targetPort"] for port in one["spec"]["ports"]} <= names
    for pod in components.values():
        account = pod.get("serviceAccountName")
        assert account is None or ("ServiceAccount", account) in by_kind


def test_spool_volume_outlives_its_receiver() -> None:
    spec = only("least", "StatefulSet")["spec"]
    assert spec["persistentVolumeClaimRetentionPolicy"] == {
        "whenDeleted": "Retain",
        "whenScaled": "Retain",
    }
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "data"
    (container,) = spec["template"]["spec"]["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    assert env["RELAY_SPOOL_PATH"] == "/data/spool.db"


def test_setup_runs_before_everything_and_uses_only_what_is_there() -> None:
    job = only("least", "Job")
    notes = job["metadata"]["annotations"]
    assert notes["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]["spec"]
    assert "serviceAccountName" not in pod
    (migrate,), (topics,) = pod["initContainers"], pod["containers"]
    assert migrate["args"] == ["migrate"] and topics["args"][:2] == ["topics", "create"]


def test_rules_in_the_chart_are_the_tested_ones() -> None:
    assert only("full", "PrometheusRule")["spec"] == read_yaml(RULES)
    (config,) = [one for one in objects("full") if one["kind"] == "ConfigMap"]
    assert config["data"]["loyalty-relay.json"].rstrip() == DASHBOARD.read_text().rstrip()


def test_monitor_gives_the_labels_that_the_rules_expect() -> None:
    monitor = only("full", "ServiceMonitor")["spec"]
    assert monitor["jobLabel"] == "app.kubernetes.io/name"
    (endpoint,) = monitor["endpoints"]
    assert [one["targetLabel"] for one in endpoint["relabelings"]] == ["component"]
    wanted = monitor["selector"]["matchLabels"].items()
    scraped = [
        one
        for one in objects("full")
        if one["kind"] == "Service"
        and wanted <= one["metadata"]["labels"].items()
        and endpoint["port"] in {port["name"] for port in one["spec"]["ports"]}
    ]
    selected = [one["spec"]["selector"]["app.kubernetes.io/component"] for one in scraped]
    assert sorted(selected) == ["consumer", "receiver"]


def test_optional_objects_are_off_by_default() -> None:
    kinds = {one["kind"] for one in objects("least")}
    assert kinds.isdisjoint(
        {"Ingress", "NetworkPolicy", "ServiceMonitor", "PrometheusRule", "ConfigMap"}
    )


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("secret.name=", "secret/name"),
        ("kafka.brokers=null", "brokers"),
        ("receiver.replcias=3", "replcias"),
        ("image.tag=latest", "image/tag"),
        ("kafka.mechanism=SCRAM-SHA-512", "kafka/mechanism"),
        ("splio.url=http://api.splio.com", "splio/url"),
        ("settings.RELAY_GRACE=5s", "RELAY_GRACE"),
        ("ingress.enabled=true", "ingress"),
        ("loyalty.enabled=true", "loyalty/programs"),
        ("loyalty.programs=splio_club", "loyalty/programs"),
        ("loyalty.debitBy=reward", "loyalty/debitRewards"),
        ("loyalty.amountUnit=cents", "loyalty/amountUnit"),
        ("secret.keys.loyaltyTokens=", "loyaltyTokens"),
        ("settings.RELAY_DEBIT_BY=reward", "RELAY_DEBIT_BY"),
        ("settings.RELAY_LOYALTY_TOKENS=*=token", "RELAY_LOYALTY_TOKENS"),
    ],
)
def test_wrong_values_are_refused(option: str, complaint: str) -> None:
    done = run(
        tool("helm"), "template", "shop", CHART, "--kube-version", KUBE_VERSION,
        "--values", CHART / "ci" / "least-values.yaml", "--set", option,
    )  # fmt: skip
    assert done.returncode != 0
    assert complaint in done.stderr


def test_versions_agree_with_the_package() -> None:
    chart = read_yaml(CHART / "Chart.yaml")
    project = (CHART.parents[2] / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"', project, re.M)
    assert version is not None and chart["appVersion"] == version[1]
