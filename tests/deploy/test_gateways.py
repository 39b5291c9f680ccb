"""The resources for Envoy Gateway and Istio agree with the chart, the settings and each other.

tests/api/envoy/test_gateways.py applies those that change an Envoy to a real one.
"""

import json
from itertools import chain
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from deploy.files import CHART, DEPLOY
from ratelimit_service.settings import Settings

NAMES = ("envoy-gateway", "istio")
SERVICE = "limits-ratelimit-service"
HOST = f"{SERVICE}.ratelimit.svc"
Json = dict[str, Any]


def documents(name: str) -> list[Json]:
    """All resources of a folder."""
    files = (path for path in sorted((DEPLOY / name).glob("*.yaml")) if path.name not in {"rules.yaml", "values.yaml"})
    return list(chain.from_iterable(yaml.safe_load_all(path.read_text()) for path in files))


def values(name: str) -> Json:
    """The chart's values that the resources expect."""
    found: Json = yaml.safe_load((DEPLOY / name / "values.yaml").read_text())
    return found


def of_kind(name: str, kind: str) -> Json:
    """The resource of a kind."""
    (found,) = (document for document in documents(name) if document["kind"] == kind)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_values_fit_the_chart(name: str) -> None:
    """The chart takes them, servers have TLS of their own, and gateways are known by their certificates."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert [error.message for error in Draft7Validator(schema).iter_errors(values(name))] == []
    assert values(name)["tls"]["clientCa"]
    assert values(name)["tls"]["gatewayCertificates"]


@pytest.mark.parametrize("name", NAMES)
def test_every_resource_is_complete(name: str) -> None:
    """Each has the four parts that every resource of Kubernetes has, and the same name and namespaces as the others."""
    found = documents(name)
    assert len(found) >= 3
    for document in found:
        assert set(document) == {"apiVersion", "kind", "metadata", "spec"}, document.get("kind")
        assert document["metadata"]["name"] == "limits"
        assert document["metadata"]["namespace"] in {"default", "ratelimit", "istio-system"}


def test_names_are_those_of_the_chart() -> None:
    """A release `limits` makes a Service of this name with this port, and one without an address of its own."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    assert f"limits-{chart['name']}" == SERVICE
    assert (defaults["service"]["port"], defaults["service"]["headless"]) == (50051, True)
    template = (CHART / "templates" / "service.yaml").read_text()
    assert 'name: {{ include "ratelimit-service.fullname" . }}-headless' in template
    assert "- { name: grpc, port: {{ .Values.service.port }}" in template


def test_istio() -> None:
    """All three connect to the Service by Istio's cluster of it, with the bound of calls that the service announces."""
    rule = of_kind("istio", "DestinationRule")["spec"]
    assert rule["host"] == f"{HOST}.cluster.local"
    http = rule["trafficPolicy"]["connectionPool"]["http"]
    assert http["maxConcurrentStreams"] == Settings.model_fields["max_concurrent_streams"].default
    assert (rule["trafficPolicy"]["tls"]["sni"], rule["trafficPolicy"]["tls"]["subjectAltNames"]) == (HOST, [HOST])
    text = (DEPLOY / "istio" / "ext-authz.yaml").read_text()
    commented = "\n".join(line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   "))
    (provider,) = yaml.safe_load(commented)["extensionProviders"]
    assert provider["name"] == of_kind("istio", "AuthorizationPolicy")["spec"]["provider"]["name"]
    assert (provider["envoyExtAuthzGrpc"]["service"], provider["envoyExtAuthzGrpc"]["port"]) == (rule["host"], 50051)
    patches = of_kind("istio", "EnvoyFilter")["spec"]["configPatches"]
    filter_config = patches[0]["patch"]["value"]["typed_config"]
    service = filter_config["rate_limit_service"]["grpc_service"]["envoy_grpc"]
    assert service["cluster_name"] == f"outbound|50051||{rule['host']}"
    labels = {"istio": "ingressgateway"}
    assert of_kind("istio", "EnvoyFilter")["spec"]["workloadSelector"]["labels"] == labels
    assert of_kind("istio", "AuthorizationPolicy")["spec"]["selector"]["matchLabels"] == labels
    (gateways,) = values("istio")["networkPolicy"]["gateways"]
    assert gateways["podSelector"]["matchLabels"] == labels


def test_envoy_gateway() -> None:
    """The policy, the grant, TLS and the patch name one Service, port and Gateway."""
    policy = of_kind("envoy-gateway", "SecurityPolicy")
    grpc = policy["spec"]["extAuth"]["grpc"]
    assert grpc["backendRefs"] == [{"name": SERVICE, "namespace": "ratelimit", "port": 50051}]
    streams = Settings.model_fields["max_concurrent_streams"].default
    assert grpc["backendSettings"]["http2"]["maxConcurrentStreams"] == streams
    assert Settings.model_fields["key_header"].default in policy["spec"]["extAuth"]["headersToExtAuth"]
    grant = of_kind("envoy-gateway", "ReferenceGrant")
    assert grant["metadata"]["namespace"] == "ratelimit"
    assert grant["spec"]["from"][0]["namespace"] == policy["metadata"]["namespace"]
    assert grant["spec"]["to"] == [{"group": "", "kind": "Service", "name": SERVICE}]
    tls = of_kind("envoy-gateway", "BackendTLSPolicy")
    assert (tls["metadata"]["namespace"], tls["spec"]["targetRefs"]) == ("ratelimit", grant["spec"]["to"])
    assert tls["spec"]["validation"]["hostname"] == HOST
    patch = of_kind("envoy-gateway", "EnvoyPatchPolicy")["spec"]
    assert patch["targetRef"]["name"] == policy["spec"]["targetRefs"][0]["name"]
    listener, cluster = (each["operation"]["value"] for each in patch["jsonPatches"])
    service = listener["typed_config"]["rate_limit_service"]["grpc_service"]["envoy_grpc"]
    assert service["cluster_name"] == cluster["name"] == cluster["load_assignment"]["cluster_name"]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    address = endpoint["endpoint"]["address"]["socket_address"]
    assert address == {"address": f"{SERVICE}-headless.ratelimit.svc.cluster.local", "port_value": 50051}
    (options,) = cluster["typed_extension_protocol_options"].values()
    assert options["explicit_http_config"]["http2_protocol_options"]["max_concurrent_streams"] == streams


@pytest.mark.parametrize("name", NAMES)
def test_one_domain(name: str) -> None:
    """The filter sends the domain that the rules are for."""
    text = (DEPLOY / name / "rate-limit.yaml").read_text()
    rules = yaml.safe_load((DEPLOY / name / "rules.yaml").read_text())
    assert f"domain: {rules['domain']}\n" in text
