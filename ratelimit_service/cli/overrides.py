"""`ratelimit-service overrides ...`: limits of one subject or key, in place of the plan's."""

from typing import Annotated

import typer

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageOverrideRequest, ManageOverrideResponse
from ratelimit_service._gen.ratelimit.v1.limit_pb2 import Limit, Overdraft, Override, Quota, TokenBucket
from ratelimit_service.cli.app import command_group
from ratelimit_service.cli.client import connect
from ratelimit_service.cli.confirm import Yes, confirmed
from ratelimit_service.cli.errors import CommandError
from ratelimit_service.cli.options import AsJson, DryRun, Expires, Output, Server, Token, output_format, parse_expires
from ratelimit_service.cli.output import Format, describe_limit, print_as, print_json, print_table
from ratelimit_service.cli.times import format_time, parse_duration
from ratelimit_service.decision.limit import MAX_TOKENS, Window

app = command_group("Limits for one subject or one key, in place of the plan's.")

KeyId = Annotated[str | None, typer.Option("--key-id", help="Of this key only.")]
Subject = Annotated[str | None, typer.Option("--subject", help="Of this subject, and so of all its keys.")]
LimitName = Annotated[str, typer.Option("--limit", help="The name of the limit to replace, or of a new one.")]


@app.command("set")
def set_override(
    *,
    limit: LimitName,
    key_id: KeyId = None,
    subject: Subject = None,
    capacity: Annotated[
        int | None, typer.Option(min=1, max=MAX_TOKENS, help="A token bucket's maximum burst, in tokens.")
    ] = None,
    refill_tokens: Annotated[
        int | None, typer.Option(min=1, max=MAX_TOKENS, help="Tokens that the bucket gains in each period.")
    ] = None,
    refill_period: Annotated[str, typer.Option(metavar="DURATION", help="The bucket's refill period.")] = "1s",
    amount: Annotated[int | None, typer.Option(min=1, max=MAX_TOKENS, help="A quota's tokens in each window.")] = None,
    window: Annotated[Window, typer.Option(help="The quota's calendar window, in UTC.")] = Window.DAY,
    resource: Annotated[
        str, typer.Option(help="Which resources: a name, a prefix ending in *, or *; '* /a*' for any method.")
    ] = "*",
    overdraft: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS",
            help="How far late charges may take it below zero, or `unbounded`. Else none, whatever the plan has.",
        ),
    ] = None,
    calls: Annotated[bool, typer.Option("--calls", help="Each call takes 1, whatever it costs.")] = False,
    shadow: Annotated[bool, typer.Option("--shadow", help="Report only; deny nothing.")] = False,
    expires: Expires = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Add an override, or replace the one of the same name.

    For a token bucket give --capacity and --refill-tokens, for a quota --amount and --window.
    """
    with connect(server, token, dry_run=dry_run) as client:
        _check_target(key_id, subject)
        mode, counts = Limit.SHADOW if shadow else Limit.ENFORCE, Limit.CALLS if calls else Limit.COST
        override = Override(limit=Limit(name=limit, resource=resource, mode=mode, counts=counts))
        if amount is not None and capacity is None and refill_tokens is None:
            override.limit.quota.CopyFrom(Quota(amount=amount, window=Quota.Window.Value(window.name)))
        elif amount is None and capacity is not None and refill_tokens is not None:
            override.limit.token_bucket.CopyFrom(_token_bucket(capacity, refill_tokens, refill_period))
        else:
            raise CommandError.usage("give either --capacity and --refill-tokens, or --amount with --window")
        if overdraft is not None:
            override.limit.overdraft.CopyFrom(_overdraft(overdraft))
        if expires:
            override.expire_time.CopyFrom(parse_expires(expires))

        def send(confirmation: str) -> ManageOverrideResponse.Overrides:
            action = ManageOverrideRequest.SetOverride(override=override, confirmation=confirmation)
            request = ManageOverrideRequest(key_id=key_id, subject=subject, set=action)
            return client.manage_override(request).set

        overrides = confirmed(send, yes=yes or dry_run)
    (print_json if as_json else _print)(overrides)


@app.command("list")
def list_overrides(
    *,
    key_id: KeyId = None,
    subject: Subject = None,
    server: Server = None,
    token: Token = None,
    output: Output = Format.TABLE,
    as_json: AsJson = False,
) -> None:
    """List the overrides of a key or a subject, including expired ones."""
    with connect(server, token) as client:
        _check_target(key_id, subject)
        action = ManageOverrideRequest.ListOverrides()
        request = ManageOverrideRequest(key_id=key_id, subject=subject, list=action)
        overrides = client.manage_override(request).list
        print_as(output_format(output, as_json=as_json), overrides, _print)


@app.command()
def delete(
    *,
    limit: LimitName,
    key_id: KeyId = None,
    subject: Subject = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Delete an override: the level below applies again. Shows the remaining ones."""
    with connect(server, token, dry_run=dry_run) as client:
        _check_target(key_id, subject)

        def send(confirmation: str) -> ManageOverrideResponse.Overrides:
            action = ManageOverrideRequest.DeleteOverride(limit=limit, confirmation=confirmation)
            request = ManageOverrideRequest(key_id=key_id, subject=subject, delete=action)
            return client.manage_override(request).delete

        overrides = confirmed(send, yes=yes or dry_run)
    (print_json if as_json else _print)(overrides)


def _token_bucket(capacity: int, refill_tokens: int, refill_period: str) -> TokenBucket:
    try:
        period = parse_duration(refill_period)
    except ValueError as error:
        raise CommandError.usage(f"--refill-period: {error}") from None
    return TokenBucket(capacity=capacity, refill_tokens=refill_tokens, refill_period=period)


def _overdraft(text: str) -> Overdraft:
    if text == "unbounded":
        return Overdraft(unbounded=True)
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_TOKENS):
        raise CommandError.usage(f"--overdraft: {text!r} is neither `unbounded` nor a number from 0 to {MAX_TOKENS:,}")
    return Overdraft(tokens=int(text))


def _check_target(key_id: str | None, subject: str | None) -> None:
    if (key_id is None) == (subject is None):
        raise CommandError.usage("no target: give either --key-id or --subject")


def _print(overrides: ManageOverrideResponse.Overrides) -> None:
    print_table(
        ("LIMIT", "EXPIRES"),
        ((describe_limit(each.limit), format_time(each.expire_time) or "never") for each in overrides.overrides),
    )
