"""`ratelimit-service enforcement ...`: the switch that has no limit refuse a call, for a day at most."""

import json
from typing import Annotated, Any

import typer

from ratelimit_service._gen.ratelimit.v1.enforcement_pb2 import Enforcement, ManageEnforcementRequest
from ratelimit_service.cli.app import command_group
from ratelimit_service.cli.client import connect
from ratelimit_service.cli.errors import CommandError, report_errors
from ratelimit_service.cli.options import AsJson, DryRun, Output, Server, Token, output_format
from ratelimit_service.cli.output import Format, print_as, print_fields
from ratelimit_service.cli.switch_client import ask_switch
from ratelimit_service.cli.times import format_time, parse_duration

app = command_group("Have no limit refuse a call for a while, when limits do harm. They go on counting.")

Local = Annotated[
    bool,
    typer.Option(
        "--local", help="Only the server on this machine, by its Unix socket: needs no token, network or Postgres."
    ),
]
Socket = Annotated[
    str, typer.Option("--socket", metavar="PATH", help="The server's socket, if there are several. Its log has it.")
]


@app.command()
def off(
    *,
    duration: Annotated[
        str,
        typer.Option("--for", metavar="DURATION", help="For how long: 30m, 2h, 24h at most; then it ends."),
    ],
    comment: Annotated[str, typer.Option(help="Why, for the audit log and all who see that it is off.")] = "",
    local: Local = False,
    socket: Socket = "",
    dry_run: DryRun = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Have no limit refuse a call, on every server within 2 seconds. Revoked and unknown keys are refused as ever.

    Clients that cache denials go on denying until these end: a minute at most, unless they were set otherwise.
    """
    with report_errors():
        try:
            wanted = parse_duration(duration)
        except ValueError as error:
            raise CommandError.usage(f"--for: {error}") from None
        if local:
            _refuse_local(dry_run=dry_run)
            question = {"action": "off", "duration_us": wanted.ToMicroseconds(), "comment": comment}
            _print_local(ask_switch(socket, question), as_json)
            return
    action = ManageEnforcementRequest.TurnOff(duration=wanted, comment=comment)
    _manage(
        ManageEnforcementRequest(turn_off=action),
        server,
        token,
        Format.JSON if as_json else Format.TABLE,
        dry_run=dry_run,
    )


@app.command()
def on(
    *,
    local: Local = False,
    socket: Socket = "",
    dry_run: DryRun = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Have limits refuse calls again, before that time is over."""
    if local:
        with report_errors():
            _refuse_local(dry_run=dry_run)
            _print_local(ask_switch(socket, {"action": "on"}), as_json)
        return
    action = ManageEnforcementRequest.TurnOn()
    _manage(
        ManageEnforcementRequest(turn_on=action),
        server,
        token,
        Format.JSON if as_json else Format.TABLE,
        dry_run=dry_run,
    )


@app.command()
def status(
    *,
    local: Local = False,
    socket: Socket = "",
    server: Server = None,
    token: Token = None,
    output: Output = Format.TABLE,
    as_json: AsJson = False,
) -> None:
    """Show whether limits refuse calls: the switch of all servers, or with --local that of one server."""
    if local:
        with report_errors():
            _print_local(ask_switch(socket, {"action": "status"}), as_json)
        return
    action = ManageEnforcementRequest.GetEnforcement()
    with report_errors():
        chosen = output_format(output, as_json=as_json)
    _manage(ManageEnforcementRequest(get=action), server, token, chosen)


def _manage(
    request: ManageEnforcementRequest, server: str | None, token: str | None, output: Format, *, dry_run: bool = False
) -> None:
    with connect(server, token, dry_run=dry_run) as client:
        enforcement = client.manage_enforcement(request).enforcement
    print_as(output, enforcement, lambda shown: _print(shown, "of every server"))


def _refuse_local(*, dry_run: bool) -> None:
    if dry_run:
        raise CommandError.usage("--dry-run is for the switch of all servers; that of one has nothing to check")


def _print_local(answer: dict[str, Any], as_json: AsJson) -> None:
    enforcement = Enforcement(off=answer["off"], actor=answer["actor"], comment=answer["comment"])
    if answer["off"]:
        enforcement.off_until.FromMicroseconds(answer["off_until_us"])
    if answer["changed_us"]:
        enforcement.update_time.FromMicroseconds(answer["changed_us"])
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        _print(enforcement, f"of the server on {answer['listen']} alone")


def _print(enforcement: Enforcement, of_what: str) -> None:
    print_fields(
        [
            ("enforcement", f"{'OFF' if enforcement.off else 'on'}, {of_what}"),
            ("until", format_time(enforcement.off_until)),
            ("comment", enforcement.comment),
            ("turned by", enforcement.actor),
            ("turned at", format_time(enforcement.update_time)),
        ]
    )
    if enforcement.off:
        typer.echo("\nNo limit refuses calls. Limits refuse again then, or at `ratelimit-service enforcement on`.")
