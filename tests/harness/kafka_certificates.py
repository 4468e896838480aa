"""Certificates for a broker on loopback and one client, made anew with openssl."""

import shutil
import subprocess
from pathlib import Path

from tests.harness.kafka_jars import BrokerMissingError


class Certificates:
    """PEM files in `directory`: an authority, what the broker shows, what a client shows."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("openssl") is None:
            raise BrokerMissingError("there is no openssl on the path to make certificates")
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.ca = directory / "ca.crt"
        self.client_cert = directory / "client.crt"
        self.client_key = directory / "client.key"
        self.server_store = directory / "server.pem"
        self._make()

    def _make(self) -> None:
        self._openssl("req", "-x509", *self._new("ca"), "-days", "2", "-subj", "/CN=test authority")
        self._sign("server", "subjectAltName=IP:127.0.0.1,DNS:localhost")
        self._sign("client", "extendedKeyUsage=clientAuth")
        # What the broker calls a key store: key and certificate in one file.
        parts = ("server.key", "server.crt")
        self.server_store.write_text(
            "".join((self._directory / part).read_text() for part in parts)
        )

    def _sign(self, name: str, extension: str) -> None:
        request, extensions = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        extensions.write_text(extension)
        self._openssl("req", *self._new(name, out=request), "-subj", f"/CN={name}")
        self._openssl(
            *("x509", "-req", "-in", str(request), "-days", "2", "-extfile", str(extensions)),
            *("-CA", str(self.ca), "-CAkey", str(self._directory / "ca.key"), "-CAcreateserial"),
            *("-out", str(self._directory / f"{name}.crt")),
        )

    def _new(self, name: str, *, out: Path | None = None) -> list[str]:
        key, made = self._directory / f"{name}.key", out or self._directory / f"{name}.crt"
        return ["-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(made)]

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
