"""The compose stack, and the settings that everything in deploy/ names."""

import json
import re
from typing import Any, Final

import pytest

from service.loyalty_rules import SANDBOX_LOYALTY
from service.setting_model import FIELDS, FROM_FILE, SECRETS, variable
from service.settings import load_settings
from tests.integration.deploy_files import COMPOSE, DEPLOY, README, ROOT, passes, read_yaml, tool

# Read by `send`, which plays SCAYLE.
OTHER_NAMES: Final = frozenset({"RELAY_SEND_PASSWORD"})

LISTENERS: Final = {"8080", "8081", "8082", "8083"}


def services() -> dict[str, Any]:
    """The services as compose itself reads them."""
    printed = passes(tool("docker-compose"), "--file", COMPOSE, "config", "--format", "json")
    found = json.loads(printed)["services"]
    assert isinstance(found, dict)
    return found


def test_compose_accepts_the_file() -> None:
    assert services().keys() >= {
        "kafka",
        "postgres",
        "topics",
        "migrate",
        "receiver",
        "sandbox",
        "consumer-1",
        "consumer-2",
        "prometheus",
        "grafana",
    }


def test_every_port_is_published_on_loopback_only() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    published = [port["published"] for port in ports]
    assert len(set(published)) == len(published)
    assert set(published) >= LISTENERS


def test_images_are_pinned() -> None:
    for name, service in services().items():
        assert re.search(r":v?\d+\.\d+", service["image"]), name


def test_our_processes_have_no_rights_and_a_read_only_root() -> None:
    ours = [one for one in services().values() if one["image"].startswith("loyalty-relay:")]
    assert len(ours) == 6
    for service in ours:
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_our_processes_reach_the_sandbox_on_their_own_loopback() -> None:
    ours = [one for one in services().values() if one["command"] in (["receive"], ["consume"])]
    assert len(ours) == 3
    assert {one["network_mode"] for one in ours} == {"service:sandbox"}
    assert {one["environment"]["RELAY_SPLIO_URL"] for one in ours} == {"http://127.0.0.1:8090"}
    # One network, so one port each.
    assert len({one["environment"]["RELAY_OPERATIONS_PORT"] for one in ours}) == 3


@pytest.mark.parametrize("service", ["receiver", "consumer-1", "consumer-2"])
def test_service_accepts_the_settings_of_each_role(service: str) -> None:
    receives = service == "receiver"
    settings = load_settings(
        services()[service]["environment"], takes_webhooks=receives, takes_effect=not receives
    )
    assert settings.warnings == ()
    assert bool(settings.loyalty_tokens) is receives
    sandbox = load_settings({}, sandbox=True)
    for field in SANDBOX_LOYALTY:
        assert getattr(settings, field) == getattr(sandbox, field), field


def test_nothing_starts_before_topics_and_migrations() -> None:
    all_services = services()
    done = {"condition": "service_completed_successfully", "required": True}
    for name in ("receiver", "consumer-1", "consumer-2"):
        needs = all_services[name]["depends_on"]
        assert needs["topics"] == done and needs["migrate"] == done


@pytest.mark.parametrize("service", ["receiver", "consumer-1"])
def test_a_stop_leaves_time_for_the_grace(service: str) -> None:
    one = services()[service]
    grace = re.fullmatch(r"(\d+)s", one["environment"]["RELAY_GRACE"])
    allowed = re.fullmatch(r"(\d+)s", one["stop_grace_period"])
    assert grace is not None and allowed is not None
    assert int(allowed[1]) > int(grace[1])


def test_mounted_files_exist() -> None:
    binds = [
        volume["source"]
        for service in services().values()
        for volume in service.get("volumes", [])
        if volume["type"] == "bind"
    ]
    assert len(binds) == 4
    for source in binds:
        assert (ROOT / source).exists(), source


def test_grafana_finds_the_dashboard_it_opens_with() -> None:
    provider = DEPLOY / "grafana" / "provisioning" / "dashboards" / "loyalty-relay.yaml"
    folder = read_yaml(provider)["providers"][0]["options"]["path"]
    grafana = services()["grafana"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    targets = {volume["target"] for volume in grafana["volumes"]}
    assert home.startswith(folder) and home in targets


def test_deploy_files_name_only_settings_that_exist() -> None:
    known = {variable(field) for field in FIELDS}
    known |= {variable(field) + "_FILE" for field in SECRETS | FROM_FILE}
    known |= OTHER_NAMES
    for path in [*DEPLOY.rglob("*"), ROOT / "README.md"]:
        if path.is_file():
            named = set(re.findall(r"\bRELAY_[A-Z_]*[A-Z]\b", path.read_text()))
            assert named - known == set(), path


def test_deploy_section_names_files_that_exist() -> None:
    (section,) = re.findall(r"^## Deploy\n(.*?)^## ", README, re.M | re.S)
    rows = re.findall(r"^\| (`.+?) \|", section, re.M)
    assert rows
    for name in re.findall(r"`([^`]+)`", " ".join(rows)):
        folder = DEPLOY / ("prometheus" if name.startswith("rules") else "")
        assert (folder / name).exists(), name
