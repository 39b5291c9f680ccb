"""A port of its own for the admin methods: a second listener of every Envoy, which proxies all calls.

It is the public listener in all but what is served: the same bounds, certificates and counters, so that Envoys are
drained and restarted as one. Nothing of the embedded application can be reached by it.
"""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

_SUFFIX: Final = "_admin"


@dataclass(frozen=True, slots=True)
class AdminPort:
    """The address, which several Envoys may share, and the socket where the control plane serves the admin methods."""

    host: str
    port: int
    control_socket: Path


def add_admin_port(resources: Json, port: AdminPort) -> None:
    """Add PORT to the static RESOURCES of a configuration whose only listener is the public one."""
    (public,) = resources["listeners"]
    listener = deepcopy(public)
    listener["name"] = f"{public['name']}{_SUFFIX}"
    listener["address"]["socket_address"] |= {
        "address": port.host,
        "port_value": port.port,
        "ipv4_compat": port.host == "::",
    }
    http = listener["filter_chains"][0]["filters"][0]["typed_config"]
    http["http_filters"] = http["http_filters"][-2:]  # the buffer of health checks, and the router
    (host,) = http["route_config"]["virtual_hosts"]
    host["routes"] = [route for route in host["routes"] if "route" in route]  # without those that shed decisions
    for route in host["routes"]:
        route["route"]["cluster"] += _SUFFIX
    clusters = [_admin_cluster(cluster, port.control_socket) for cluster in resources["clusters"]]
    resources["listeners"].append(listener)
    resources["clusters"].extend(clusters)


def _admin_cluster(control: Json, socket: Path) -> Json:
    """The cluster CONTROL of the control plane, on another SOCKET of it."""
    cluster = deepcopy(control)
    cluster["name"] += _SUFFIX
    assignment = cluster["load_assignment"]
    assignment["cluster_name"] = cluster["name"]
    (endpoint,) = assignment["endpoints"][0]["lb_endpoints"]
    endpoint["endpoint"]["address"]["pipe"]["path"] = str(socket)
    return cluster
