"""`ratelimit-service audit ...`: who changed what."""

import json
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict

from ratelimit_service._gen.ratelimit.v1.audit_pb2 import AuditEvent
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ListAuditEventsRequest, ListAuditEventsResponse
from ratelimit_service.cli.app import command_group
from ratelimit_service.cli.client import connect
from ratelimit_service.cli.options import (
    AsJson,
    Output,
    PageSize,
    PageToken,
    Server,
    Token,
    output_format,
    parse_option_time,
)
from ratelimit_service.cli.output import Format, print_as, print_next_page, print_table
from ratelimit_service.cli.times import format_time
from ratelimit_service.management.audit import differences

app = command_group("Who changed what.")


@app.callback()
def group() -> None:
    """Who changed what."""  # without a callback, typer would turn a group of one command into that command


@app.command("list")
def list_events(
    *,
    target: Annotated[str, typer.Option(help="Only changes of this: keys/<key_id>, plans/<name>, ...")] = "",
    target_prefix: Annotated[str, typer.Option(help="Only changes of what begins with this: plans/, ...")] = "",
    actor: Annotated[str, typer.Option(help="Only changes made with the token of this name; cli for local ones.")] = "",
    action: Annotated[str, typer.Option(help="Only changes of this kind: key.create, plan.update, ...")] = "",
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only changes from then on: a time, or so long ago: 24h.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only changes before then: a time, or so long ago: 1h.")
    ] = None,
    page_size: PageSize = 0,
    page_token: PageToken = "",
    server: Server = None,
    token: Token = None,
    output: Output = Format.TABLE,
    as_json: AsJson = False,
) -> None:
    """List changes, newest first: each field with its old and its new value."""
    with connect(server, token) as client:
        request = ListAuditEventsRequest(
            target=target,
            target_prefix=target_prefix,
            actor=actor,
            action=action,
            page_size=page_size,
            page_token=page_token,
        )
        if since is not None:
            request.start_time.CopyFrom(parse_option_time("--since", since, past=True))
        if until is not None:
            request.end_time.CopyFrom(parse_option_time("--until", until, past=True))
        page = client.list_audit_events(request)
        print_as(output_format(output, as_json=as_json), page, _print_page)


def _print_page(page: ListAuditEventsResponse) -> None:
    print_table(
        ("TIME", "ACTOR", "ACTION", "TARGET", "CHANGES"),
        (
            (
                format_time(event.time),
                event.actor,
                event.action,
                event.target,
                _describe(event),
            )
            for event in page.events
        ),
    )
    print_next_page(page.next_page_token)


def _describe(event: AuditEvent) -> str:
    """The changes in one line: `plan: free -> pro, labels.team: (none) -> search`; of what is new, `plan=free`."""
    changed = differences(MessageToDict(event.previous), MessageToDict(event.detail))
    if not event.HasField("previous"):
        return ", ".join(f"{one.path}={_text(one.new)}" for one in changed)
    return ", ".join(f"{one.path}: {_text(one.old)} -> {_text(one.new)}" for one in changed)


def _text(value: object) -> str:
    if value is None:
        return "(none)"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) and value else json.dumps(value)
