"""The jars of the broker that tests run, fetched once into a cache."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

VERSION: Final = "4.1.1"
_POM: Final = Path(__file__).with_name("kafka") / "pom.xml"
_FETCH_S: Final = 600.0


class BrokerMissingError(Exception):
    """There is no broker to be had here: what is absent, in a sentence."""


def broker_jars() -> Path:
    """
    The folder with the broker's jars; fetched by Maven when it is not there yet.

    Raises: BrokerMissingError.
    """
    if shutil.which("java") is None:
        raise BrokerMissingError("there is no java (17 or newer) on the path")
    home = _cache() / "loyalty-relay" / f"kafka-{VERSION}"
    libs = home / "libs"
    if not libs.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        _fetch(libs)
    return libs


def _cache() -> Path:
    chosen = os.environ.get("RELAY_TEST_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return Path(chosen) if chosen else Path.home() / ".cache"


def _fetch(libs: Path) -> None:
    """Fetch beside `libs`, then rename: another process never sees half of it."""
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerMissingError("the broker's jars are not in the cache and there is no mvn")
    with tempfile.TemporaryDirectory(dir=libs.parent) as folder:
        fetched = Path(folder) / "libs"
        # Maven writes beside its pom, so it gets a copy of it.
        pom = shutil.copy(_POM, folder)
        command = [maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"]
        try:
            done = subprocess.run(
                [*command, f"-DoutputDirectory={fetched}"],
                check=False,
                capture_output=True,
                text=True,
                timeout=_FETCH_S,
            )
        except subprocess.TimeoutExpired:
            raise BrokerMissingError("mvn did not fetch the broker's jars in time") from None
        if done.returncode != 0 or not fetched.is_dir():
            raise BrokerMissingError(f"mvn did not fetch the broker's jars: {done.stdout[-500:]}")
        try:
            fetched.rename(libs)
        except OSError:
            # Somebody else was quicker.
            if not libs.is_dir():
                raise
