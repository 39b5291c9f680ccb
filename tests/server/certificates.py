"""Certificates for tests, made by openssl."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_DAYS = ("-days", "2")
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

LOCAL = (("DNS", "localhost"), ("IP", "127.0.0.1"))


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key."""

    certificate: Path
    key: Path

    def read(self) -> tuple[bytes, bytes]:
        """The key and the certificate, in the order that grpc takes them."""
        return self.key.read_bytes(), self.certificate.read_bytes()

    def write_over(self, other: "Pair") -> None:
        """Put this pair in the place of another one, into the same files."""
        other.key.write_bytes(self.key.read_bytes())
        other.certificate.write_bytes(self.certificate.read_bytes())


class Authority:
    """A CA that makes certificates in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pair = Pair(folder / "ca.pem", folder / "ca.key")
        extensions = ("-addext", "basicConstraints=critical,CA:TRUE")
        _openssl(
            "req", "-x509", *_KEY, *_DAYS, *extensions, "-subj", "/CN=ca",
            "-keyout", self._pair.key, "-out", self._pair.certificate,
        )  # fmt: skip
        self.certificate = self._pair.certificate

    def issue(self, name: str, common_name: str = "localhost", names: Sequence[tuple[str, str]] = LOCAL) -> Pair:
        """Make a certificate for localhost and 127.0.0.1, or for other NAMES, such as `("URI", "spiffe://a/b")`."""
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        config = self._folder / f"{name}.cnf"
        listed = "\n".join(f'{kind}.{number} = "{value}"' for number, (kind, value) in enumerate(names, start=1))
        config.write_text(f"[req]\ndistinguished_name = dn\n[dn]\n[own]\nsubjectAltName = @names\n[names]\n{listed}\n")
        signer = ("-CA", self._pair.certificate, "-CAkey", self._pair.key)
        _openssl(
            "req", "-x509", *signer, *_KEY, *_DAYS, "-config", config, "-extensions", "own",
            "-subj", f"/CN={common_name}", "-keyout", pair.key, "-out", pair.certificate,
        )  # fmt: skip
        return pair


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
