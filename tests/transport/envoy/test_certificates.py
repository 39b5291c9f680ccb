"""How Envoy is configured to say whose certificate a caller has."""

from pathlib import Path

import pytest

from ratelimit_service.transport.envoy.admin_port import AdminPort
from ratelimit_service.transport.envoy.config import EnvoyOptions, envoy_config

OURS = ["envoy.filters.http.rbac", "envoy.filters.http.header_mutation"]


@pytest.mark.parametrize("gateways", [(), ("gateway.example.com",)])
def test_every_listener_names_certificates(tmp_path: Path, gateways: tuple[str, ...]) -> None:
    """Where names are listed, no port leaves the header that names a certificate to the caller."""
    options = EnvoyOptions(
        app="a:b",
        hot_paths=["/a/B"],
        host="127.0.0.1",
        port=1,
        admin_socket=tmp_path / "admin.sock",
        control_socket=tmp_path / "control.sock",
        max_connection_age=60,
        max_concurrent_streams=16,
        tls=None,
        gateways=gateways,
        admin_methods=AdminPort("127.0.0.1", 2, tmp_path / "methods.sock"),
    )
    listeners = envoy_config(options)["static_resources"]["listeners"]
    assert len(listeners) == 2
    for listener in listeners:
        filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
        assert [found["name"] for found in filters[:2] if found["name"] in OURS] == (OURS if gateways else [])
