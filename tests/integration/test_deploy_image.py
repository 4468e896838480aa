"""The image: its rules, and its pip steps replayed from a clean checkout."""

import os
import re
import shutil
import sys
import tarfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

import pytest

from tests.integration.deploy_files import DOCKERFILE, ROOT, passes, run, tool

VERSION: Final = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)


def instructions() -> list[tuple[str, str]]:
    """Every instruction with its arguments, continued lines joined, comments left out."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, rest.strip())
        for line in text.splitlines()
        for word, _, rest in [line.partition(" ")]
        if word
    ]


def of(word: str) -> list[str]:
    """The arguments of every instruction `word`."""
    return [rest for name, rest in instructions() if name == word]


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets `path` into the build."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if (
            pattern
            and not line.startswith("#")
            and (fnmatch(path, pattern) or path.startswith(f"{pattern}/"))
        ):
            sent = line.startswith("!")
    return sent


def test_hadolint_finds_nothing() -> None:
    passes(tool("hadolint"), DOCKERFILE)


def test_base_images_are_pinned_and_one() -> None:
    bases = {rest.split()[0] for rest in of("FROM")}
    assert len(bases) == 1
    (base,) = bases
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", base)
    tested = f"python:{sys.version_info.major}.{sys.version_info.minor}."
    lowest = "python:3.11."
    assert base.startswith((tested, lowest))


def test_process_runs_without_rights_and_ends_by_sigterm() -> None:
    (user,) = of("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert of("STOPSIGNAL") == ["SIGTERM"]
    assert of("ENTRYPOINT") == ['["loyalty-relay"]']  # no shell that would keep the signal
    assert of("VOLUME") == ["/data"]
    assert not of("ADD")
    last_root = max(i for i, (name, _) in enumerate(instructions()) if name in ("RUN", "COPY"))
    assert last_root < next(i for i, (name, _) in enumerate(instructions()) if name == "USER")


def test_health_check_needs_nothing_but_python() -> None:
    (check,) = of("HEALTHCHECK")
    assert '"python"' in check and "/healthz" in check
    assert not re.search(r"curl|wget", DOCKERFILE.read_text())


def test_label_tells_the_version() -> None:
    assert VERSION is not None
    assert f"VERSION={VERSION[1]}" in of("ARG")


def test_build_is_sent_what_it_copies_and_no_more() -> None:
    copied = [source for rest in of("COPY") if "--from" not in rest for source in rest.split()[:-1]]
    assert copied
    assert [source for source in copied if not is_sent(source)] == []
    for path in (".git", ".env", "tests", "data", ".venv", "deploy/compose.yaml", "README.md"):
        assert not is_sent(path), path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pip_steps_work_from_a_clean_checkout(tmp_path: Path) -> None:
    """Every COPY and pip step of the build stage, with folders below `tmp_path` for its paths."""
    archive = tmp_path / "head.tar"
    passes("git", "archive", "--output", archive, "HEAD")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "checkout", filter="data")
    source, relay, wheels = (tmp_path / name for name in ("src", "relay", "wheels"))
    source.mkdir()
    passes(sys.executable, "-m", "venv", tmp_path / "base")
    env = {"PATH": f"{tmp_path / 'base' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    replayed = 0
    for name, rest in instructions()[: [name for name, _ in instructions()].index("USER")]:
        if name == "COPY" and "--from" not in rest:
            *sources, target = rest.split()
            for each in sources:
                place = source / target / each if target == "./" else source / target
                place.parent.mkdir(parents=True, exist_ok=True)
                found = tmp_path / "checkout" / each
                (shutil.copytree if found.is_dir() else shutil.copy)(found, place)
        elif name == "RUN" and "python" in rest:
            script = rest.replace("/opt/relay", str(relay)).replace("/wheels", str(wheels))
            done = run("sh", "-c", script, cwd=source, env=env, timeout_s=500)
            assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
            replayed += 1
    assert replayed == 3
    program = relay / "bin" / "loyalty-relay"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert VERSION is not None
    done = run(program, "--version", cwd=elsewhere, env={})
    assert (done.returncode, done.stdout) == (0, f"loyalty-relay {VERSION[1]}\n"), done.stderr
    packages = run(relay / "bin" / "python", "-c", "import pip", cwd=elsewhere, env={})
    assert packages.returncode != 0
