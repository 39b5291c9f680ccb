"""`ratelimit-service check` and `explain`: one decision, and why it is what it is."""

from typing import Annotated

import typer

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ExplainLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from ratelimit_service.cli.connection import connect
from ratelimit_service.cli.credential import ApiKey, parse_credential
from ratelimit_service.cli.exits import Exit
from ratelimit_service.cli.options import AsJson, Server, Token
from ratelimit_service.cli.output import print_json
from ratelimit_service.cli.views.decision import print_decision, print_explanation

Resource = Annotated[str, typer.Option("--resource", help="What is called, as the gateway names it: orders.create.")]
Cost = Annotated[
    int | None,
    typer.Option("--cost", min=0, max=1_000_000, help="Tokens that the call takes; 0 only looks. Default: 1."),
]
RequestId = Annotated[
    str, typer.Option("--request-id", help="Makes a repeated call be charged once and answered the same.")
]


def check(
    key: ApiKey = None,
    *,
    resource: Resource = "",
    cost: Cost = None,
    request_id: RequestId = "",
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Decide one call and charge it. Exits with 0 if it is allowed, 1 if it is denied, more if nothing was decided."""
    with connect(server, token) as client:
        request = CheckLimitRequest(**parse_credential(key), resource=resource, cost=cost, request_id=request_id)
        decision = client.check_limit(request)
    (print_json if as_json else print_decision)(decision)
    if not decision.allowed:
        raise typer.Exit(Exit.NO)


def explain(
    key: ApiKey = None,
    *,
    resource: Resource = "",
    cost: Cost = None,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Say all that a decision on this call would weigh, and which level set each limit. Charges nothing."""
    with connect(server, token) as client:
        request = ExplainLimitRequest(**parse_credential(key), resource=resource, cost=cost)
        explanation = client.explain_limit(request)
    (print_json if as_json else print_explanation)(explanation)
