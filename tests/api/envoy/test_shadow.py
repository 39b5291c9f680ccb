"""The service beside another one, in front of one site: Envoy asks both, and only the other one decides."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from api.envoy.front import FrontEnvoy, Json, front_config, generic, route
from api.envoy.upstream import Upstream
from api.envoy.wire import ask, descriptor, put_rules, quota
from fixtures.served import Server

GUIDE = Path(__file__).parents[3] / "docs" / "migrate-from-envoyproxy-ratelimit.md"
SITE = ("site", "shop")


@pytest.fixture
def filters() -> list[Json]:
    """The filters of the guide: that of the service in shadow, and that of the one in use."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    found: list[Json] = yaml.safe_load(block)["http_filters"]
    return found


def test_a_service_in_shadow_counts_what_the_other_decides(
    proxy_server: Callable[[str], Server],
    upstream: Upstream,
    start_front: Callable[[Json], FrontEnvoy],
    filters: list[Json],
) -> None:
    """It is asked about every request, those that the other denies too, and callers see nothing of its denials."""
    server = proxy_server("envoy")
    limits = {"key": SITE[0], "value": SITE[1]}
    shadow = put_rules(server, {**limits, "limits": [quota(2, name="shadowed", mode="SHADOW")]})
    in_use = put_rules(server, {**limits, "limits": [quota(3, name="enforced")]})
    for one, domain in zip(filters, (shadow, in_use), strict=True):
        one["typed_config"] |= {"domain": domain, "timeout": "5s"}
        one["typed_config"]["rate_limit_service"]["grpc_service"]["envoy_grpc"]["cluster_name"] = "ratelimit"
    routes = [route(generic(site="shop"))]
    envoy = start_front(front_config(server.address, upstream.port, *filters, routes=routes))
    replies = [envoy.get() for _ in range(5)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429, 429]
    for reply in replies[:3]:
        assert reply.headers["content-type"] == "application/json"
        assert "retry-after" not in reply.headers
        assert reply.headers["ratelimit-policy"] == '"enforced";q=3;w=86400'
    assert envoy.statistic("cluster.upstream.ratelimit.next.ok") == 5
    assert envoy.statistic("cluster.upstream.ratelimit.over_limit") == 2
    peek = ask(server, descriptor(SITE, hits_addend={"value": 0}), domain=shadow).statuses[0]
    assert (peek.limit_remaining, peek.current_limit.name) == (0, "shadowed")
