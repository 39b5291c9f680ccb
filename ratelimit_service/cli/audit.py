"""`ratelimit-service audit ...`: who changed what."""

from collections.abc import Iterable
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict

from ratelimit_service._gen.ratelimit.v1.audit_pb2 import AuditEvent
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ListAuditEventsRequest
from ratelimit_service.cli.app import command_group
from ratelimit_service.cli.client import connect
from ratelimit_service.cli.options import AsJson, PageSize, PageToken, Server, Token
from ratelimit_service.cli.output import print_json, print_next_page, print_table
from ratelimit_service.cli.times import format_time

app = command_group("Who changed what.")


@app.callback()
def group() -> None:
    """Who changed what."""  # without a callback, typer would turn a group of one command into that command


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
        _print_events(page.events)
        print_next_page(page.next_page_token)


def _print_events(events: Iterable[AuditEvent]) -> None:
    print_table(
        ("TIME", "ACTOR", "ACTION", "TARGET", "DETAIL"),
        (
            (
                format_time(event.time),
                event.actor,
                event.action,
                event.target,
                ", ".join(f"{name}={value}" for name, value in MessageToDict(event.detail).items()),
            )
            for event in events
        ),
    )
