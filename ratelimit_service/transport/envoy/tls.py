"""TLS in Envoy: the files that it reads, and the signal to read them again after a renewal."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

_TLS: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_SERVER: Final = "server"
_CLIENTS: Final = "clients"


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of TLS. With `client_ca`, callers need a certificate of that CA.

    `folder` is used for nothing else: it holds the list of files for Envoy to read, and whenever a file is moved into
    it, Envoy reads them again.
    """

    certificate: Path
    key: Path
    client_ca: Path | None
    folder: Path

    def write(self) -> None:
        """Write the list of files into the folder. Once, before an Envoy starts."""
        watched = {"watched_directory": {"path": str(self.folder)}}
        certificate = {"certificate_chain": _file(self.certificate), "private_key": _file(self.key), **watched}
        self._write_secret(_SERVER, {"tls_certificate": certificate})
        if self.client_ca is not None:
            self._write_secret(_CLIENTS, {"validation_context": {"trusted_ca": _file(self.client_ca), **watched}})

    def signal_renewal(self) -> None:
        """Have every Envoy read the files again."""
        mark = self.folder.with_name("renewed")
        mark.touch()
        mark.replace(self.folder / mark.name)

    def secret_file(self, name: str) -> Path:
        """The file that defines the secret NAME: the files that it consists of, not their content."""
        return self.folder / f"{name}.json"

    def _write_secret(self, name: str, secret: Json) -> None:
        resource = {"@type": f"{_TLS}.Secret", "name": name, **secret}
        self.secret_file(name).write_text(json.dumps({"resources": [resource]}))


def transport_socket(tls: Tls) -> Json:
    """The part of a listener's configuration that enables TLS."""
    context: Json = {
        "alpn_protocols": ["h2"],
        "tls_certificate_sds_secret_configs": [_secret(_SERVER, tls)],
    }
    if tls.client_ca is not None:
        context["validation_context_sds_secret_config"] = _secret(_CLIENTS, tls)
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TLS}.DownstreamTlsContext",
            "common_tls_context": context,
            "require_client_certificate": tls.client_ca is not None,
        },
    }


def _secret(name: str, tls: Tls) -> Json:
    # Only files that are named in a secret are read again: those in the configuration itself are read once.
    source = {"path_config_source": {"path": str(tls.secret_file(name))}, "resource_api_version": "V3"}
    return {"name": name, "sds_config": source}


def _file(path: Path) -> Json:
    return {"filename": str(path)}
