"""`ratelimit-service audit ...`: who changed what."""

from typing import Annotated

import typer

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ListAuditEventsRequest
from ratelimit_service.cli.command_group import command_group
from ratelimit_service.cli.connection import connect
from ratelimit_service.cli.options import AsJson, PageSize, PageToken, Server, Token
from ratelimit_service.cli.output import print_json
from ratelimit_service.cli.views.audit import print_events
from ratelimit_service.cli.views.page import print_next_page

app = command_group("Who changed what.")


@app.callback()
def group() -> None:
    """Who changed what."""


@app.command("list")
def list_events(
    *,
    target: Annotated[str, typer.Option(help="Only changes of this: keys/<key_id>, plans/<name>, ...")] = "",
    page_size: PageSize = 0,
    page_token: PageToken = "",
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List changes, newest first."""
    with connect(server, token) as client:
        page = client.list_audit_events(
            ListAuditEventsRequest(target=target, page_size=page_size, page_token=page_token)
        )
    if as_json:
        print_json(page)
    else:
        print_events(page.events)
        print_next_page(page.next_page_token)
