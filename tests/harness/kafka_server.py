"""A real Kafka broker as a process that tests start, stop, kill, freeze and restart."""

import base64
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tests.harness.kafka_certificates import Certificates
from tests.harness.ports import free_port

USER: Final = "relay"
PASSWORD: Final = "broker-test"
STRANGER: Final = "stranger"  # may authenticate, and nothing else
_START_S: Final = 60.0
_STOP_S: Final = 30.0
_LOOK_S: Final = 0.05

# One JVM that starts fast beside others matters more here than its peak.
_JVM: Final = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

_FAST: Final = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    # Until then a broker that was killed counts as alive and cannot register anew.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    "offsets.topic.num.partitions": "2",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "log.retention.check.interval.ms": "500",
    "log.initial.task.delay.ms": "500",
    "log.cleaner.dedupe.buffer.size": "2000000",
    "num.network.threads": "2",
    "num.io.threads": "2",
    "background.threads": "1",
}
_PROTOCOLS: Final = {
    "PLAINTEXT": "PLAINTEXT",
    "CONTROLLER": "PLAINTEXT",
    "SASL": "SASL_PLAINTEXT",
    "TLS": "SSL",
    "SASLTLS": "SASL_SSL",
}


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the broker listens on loopback; the last three only when it is secure."""

    plain: int
    controller: int
    sasl: int
    tls: int
    sasl_tls: int


class KafkaServer:
    """
    One node that is broker and controller, with its data in `directory`.

    It keeps data and ports over restarts. `secure` adds listeners with SASL, with TLS that asks
    for a client's certificate, and with both, and an authorizer that lets `STRANGER` do nothing.
    Leaving the context kills what still runs.

    Args:
        archive_to: where its JVM leaves the classes that it loaded when it is stopped.
    """

    def __init__(
        self,
        directory: Path,
        jars: Path,
        *,
        secure: bool = False,
        settings: Mapping[str, str] | None = None,
        archive_to: Path | None = None,
    ) -> None:
        self.directory = directory
        self._jars = jars
        self._archive_to = archive_to
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self.ports = Ports(*(free_port() for _ in range(5)))
        self.certificates = Certificates(directory) if secure else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def servers(self) -> tuple[str, ...]:
        """Its address for clients without security."""
        return (f"127.0.0.1:{self.ports.plain}",)

    def start(self) -> None:
        """Start it, formatting its storage the first time, and wait until it listens."""
        assert self._process is None or self._process.poll() is not None, "it runs already"
        self.directory.mkdir(parents=True, exist_ok=True)
        properties = self.directory / "server.properties"
        if not properties.exists():
            properties.write_text(self._properties())
            self._format(properties)
        archive: list[str] = []
        if self._archive_to is not None:
            archive = [f"-XX:ArchiveClassesAtExit={self._archive_to}"]
        with (self.directory / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._java(), *archive, "kafka.Kafka", str(properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait_listening()

    def stop(self) -> None:
        """Stop it in order (SIGTERM)."""
        self._signal(signal.SIGTERM)
        assert self._process is not None
        self._process.wait(_STOP_S)

    def kill(self) -> None:
        """End it with SIGKILL, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Start it again on the same data and ports after it was stopped or killed."""
        self.start()

    def freeze(self) -> None:
        """Let it stand still as it is: connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        # Its threads stop one by one, and one of them may answer yet.
        os.waitpid(self._process.pid, os.WUNTRACED)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def log_text(self) -> str:
        """What it wrote over all starts; little, as its loggers have no appender."""
        return (self.directory / "broker.log").read_text(errors="replace")

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "not started"
        self._process.send_signal(number)

    def _java(self) -> list[str]:
        archive = _archive(self._jars)
        shared = [f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []
        return ["java", *_JVM, *shared, "-cp", f"{self._jars}{os.sep}*"]

    def _format(self, properties: Path) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        users = [
            f"{mechanism}=[name={user},password={PASSWORD}]"
            for user in (USER, STRANGER)
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        ]
        scram = [part for user in users for part in ("--add-scram", user)]
        done = subprocess.run(
            [
                *self._java(),
                "kafka.tools.StorageTool",
                "format",
                f"--cluster-id={cluster}",  # one that begins with a dash is no option
                "-c",
                str(properties),
                *(scram if self.certificates else []),
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=_START_S,
        )
        assert done.returncode == 0, f"the broker's storage was not formatted: {done.stderr}"

    def _properties(self) -> str:
        ports = {"PLAINTEXT": self.ports.plain, "CONTROLLER": self.ports.controller}
        secure: dict[str, str] = {}
        if self.certificates is not None:
            ports |= {
                "SASL": self.ports.sasl,
                "TLS": self.ports.tls,
                "SASLTLS": self.ports.sasl_tls,
            }
            secure = _secure(self.certificates)
        values = {
            **_FAST,
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items()),
            "listener.security.protocol.map": ",".join(
                f"{name}:{_PROTOCOLS[name]}" for name in ports
            ),
            "controller.quorum.voters": f"1@127.0.0.1:{self.ports.controller}",
            "log.dirs": str(self.directory / "data"),
            **secure,
            **self._settings,
        }
        return "".join(f"{name}={value}\n" for name, value in values.items())

    def _wait_listening(self) -> None:
        """KRaft opens the client's listener last, so a connection means that it is up."""
        assert self._process is not None
        deadline = time.monotonic() + _START_S
        while True:
            code = self._process.poll()
            assert code is None, f"the broker ended with {code}:\n{self.log_text()[-4000:]}"
            try:
                socket.create_connection(("127.0.0.1", self.ports.plain), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, "the broker does not listen"
                time.sleep(_LOOK_S)
            else:
                return


def archive_classes(directory: Path, jars: Path) -> None:
    """
    Keep the classes of a broker beside `jars` as its JVM has them in memory, unless they are there.

    Reading them is nearly half of a start. A JVM that cannot use them reads the jars all the same.
    """
    archive = _archive(jars)
    if archive.exists():
        return
    made = archive.with_suffix(f".{os.getpid()}")
    with KafkaServer(directory, jars, archive_to=made) as server:
        server.start()
        server.stop()
    if made.exists():  # some JVMs cannot make one
        made.replace(archive)


def _archive(jars: Path) -> Path:
    return jars.with_name("classes.jsa")


def _secure(certificates: Certificates) -> dict[str, str]:
    plain = " ".join(f'user_{user}="{PASSWORD}"' for user in (USER, STRANGER))
    plain = f"org.apache.kafka.common.security.plain.PlainLoginModule required {plain};"
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    found = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:ANONYMOUS;User:{USER};User:CN=client",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates.server_store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates.ca),
        "listener.name.tls.ssl.client.auth": "required",
    }
    for listener in ("sasl", "sasltls"):
        found[f"listener.name.{listener}.plain.sasl.jaas.config"] = plain
        for mechanism in ("scram-sha-256", "scram-sha-512"):
            found[f"listener.name.{listener}.{mechanism}.sasl.jaas.config"] = scram
    return found
