"""Certificates as identities: how Envoy says which caller has the certificate of a gateway."""

from collections.abc import Collection, Iterable
from typing import Any, Final, TypeAlias

from ratelimit_service.api.presented import CERTIFICATE_HEADER

Json: TypeAlias = dict[str, Any]

_FILTERS: Final = "type.googleapis.com/envoy.extensions.filters.http"
_POLICIES: Final = "envoy.filters.http.rbac"


def add_identity_filters(listeners: Iterable[Json], gateways: Collection[str]) -> None:
    """Put the filters of `identity_filters` before all others of each of the LISTENERS, since all are relied on."""
    for listener in listeners:
        for connections in listener["filter_chains"][0]["filters"]:
            connections["typed_config"]["http_filters"][:0] = identity_filters(gateways)


def identity_filters(gateways: Iterable[str]) -> list[Json]:
    """Filters that write into CERTIFICATE_HEADER which of the names GATEWAYS the caller's certificate has, if any.

    Envoy compares each DNS and URI SAN in whole. To pass all of them on as a text would not do: a SAN may itself have
    the comma or semicolon by which a header separates them, and so look like two. What a caller sends in that header is
    removed. The names have the form that `Settings.gateways` gives them: none is the subject of a certificate
    (`CN=...`), which Envoy compares too.
    """
    policies = {
        name: {"permissions": [{"any": True}], "principals": [{"authenticated": {"principal_name": _exactly(name)}}]}
        for name in gateways
    }
    # Shadow rules deny nothing: they only report the first policy, in the order of names, that matches.
    shadow = {"action": "ALLOW", "policies": policies}
    value = f"%DYNAMIC_METADATA({_POLICIES}:shadow_effective_policy_id)%"
    header = {"header": {"key": CERTIFICATE_HEADER, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    mutations = [{"remove": CERTIFICATE_HEADER}, {"append": header}]  # an absent value would leave the caller's
    return [
        {"name": _POLICIES, "typed_config": {"@type": f"{_FILTERS}.rbac.v3.RBAC", "shadow_rules": shadow}},
        {
            "name": "envoy.filters.http.header_mutation",
            "typed_config": {
                "@type": f"{_FILTERS}.header_mutation.v3.HeaderMutation",
                "mutations": {"request_mutations": mutations},
            },
        },
    ]


def _exactly(name: str) -> Json:
    return {"exact": name, "ignore_case": ":" not in name}  # DNS names have no case, URIs do
