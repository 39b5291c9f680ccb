"""TLS at Envoy: the files that it serves from, and how it is told that they were renewed."""

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
    """The files that TLS is served from. With `client_ca`, callers need a certificate of that CA.

    `folder` is ours alone: there Envoy finds which files to read, and whenever a file is moved into it, Envoy reads
    them again.
    """

    certificate: Path
    key: Path
    client_ca: Path | None
    folder: Path

    def write(self) -> None:
        """Write what Envoy needs into the folder. Once, before an Envoy starts."""
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
        """Where Envoy finds the secret NAME: which files it is made of, not what is in them."""
        return self.folder / f"{name}.json"

    def _write_secret(self, name: str, secret: Json) -> None:
        resource = {"@type": f"{_TLS}.Secret", "name": name, **secret}
        self.secret_file(name).write_text(json.dumps({"resources": [resource]}))


def transport_socket(tls: Tls) -> Json:
    """The part of a listener's configuration that has it serve TLS."""
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
    # Only what comes by this way is read again: files that are named in the configuration itself are read once.
    source = {"path_config_source": {"path": str(tls.secret_file(name))}, "resource_api_version": "V3"}
    return {"name": name, "sds_config": source}


def _file(path: Path) -> Json:
    return {"filename": str(path)}
