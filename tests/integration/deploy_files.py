"""The files of deploy/, and the tools that judge them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
RULES: Final = DEPLOY / "prometheus" / "rules.yaml"
RULES_TESTS: Final = tuple(
    DEPLOY / "prometheus" / name for name in ("rules_test.yaml", "rules_days_test.yaml")
)
SCRAPE: Final = DEPLOY / "prometheus" / "prometheus.yaml"
DASHBOARD: Final = DEPLOY / "grafana" / "loyalty-relay.json"
DOCKERFILE: Final = DEPLOY / "Dockerfile"
COMPOSE: Final = DEPLOY / "compose.yaml"
CHART: Final = DEPLOY / "helm" / "loyalty-relay"
README: Final = (ROOT / "README.md").read_text()

_TIMEOUT_S: Final = 100


def tool(name: str) -> str:
    """
    Where the program `name` is: beside this Python, else on the path.

    Absent, the test is skipped on a laptop and fails in CI, which installs all of them.
    """
    beside = Path(sys.executable).parent
    found = shutil.which(name, path=f"{beside}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    if found is None:
        absent = pytest.fail if os.environ.get("CI") else pytest.skip
        absent(f"{name} is not installed (make deploy-tools; promtool: package prometheus)")
    return found


def run(
    *command: str | Path,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> subprocess.CompletedProcess[str]:
    """Run `command` to its end; the caller judges the exit code."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=None if env is None else dict(env),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def passes(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run `command`, which must exit 0; returns what it printed."""
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


def read_yaml(path: Path) -> Any:
    """The one document in `path`."""
    return yaml.safe_load(path.read_text())


def alerts() -> Sequence[Mapping[str, Any]]:
    """Every alerting rule."""
    return [
        rule for group in read_yaml(RULES)["groups"] for rule in group["rules"] if "alert" in rule
    ]
