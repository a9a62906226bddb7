"""Certificates for tests, signed by authorities that nobody else knows."""

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM files."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority; `pem` is the file with which its certificates are checked."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._name = name
        self._ca = trustme.CA()
        self._made = 0
        self.pem = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.pem))

    def server(self) -> Pair:
        """Return a new certificate for this machine under its loopback names."""
        return self._written(self._ca.issue_cert("127.0.0.1", "localhost", "::1"))

    def client(self, common_name: str) -> Pair:
        """Return a new certificate for a client."""
        return self._written(self._ca.issue_cert("client@example.org", common_name=common_name))

    def _written(self, made: trustme.LeafCert) -> Pair:
        self._made += 1
        stem = f"{self._name}-{self._made}"
        pair = Pair(self._folder / f"{stem}.crt", self._folder / f"{stem}.key")
        made.private_key_pem.write_to_path(str(pair.key))
        for blob in made.cert_chain_pems:
            blob.write_to_path(str(pair.cert), append=True)
        return pair
