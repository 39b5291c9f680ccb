"""`ratelimit-service keys ...`: API keys."""

from collections.abc import Iterable
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest
from ratelimit_service._gen.ratelimit.v1.key_pb2 import Key
from ratelimit_service._gen.ratelimit.v1.limit_pb2 import Override
from ratelimit_service.cli.app import command_group
from ratelimit_service.cli.client import connect
from ratelimit_service.cli.errors import CommandError
from ratelimit_service.cli.options import AsJson, Expires, PageSize, PageToken, Server, Token, parse_expires
from ratelimit_service.cli.output import (
    describe_limit,
    print_fields,
    print_json,
    print_next_page,
    print_secret,
    print_table,
)
from ratelimit_service.cli.times import format_time, parse_duration

app = command_group("Create, change, suspend and revoke API keys.")

KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's public id.")]
Plan = Annotated[str, typer.Option("--plan", help="The plan that sets the key's limits.")]
Subject = Annotated[str, typer.Option("--subject", help="The holder of the limits. Keys of one subject share them.")]
_NEVER = "never"


@app.command()
def create(
    *,
    plan: Plan,
    subject: Subject,
    description: Annotated[str, typer.Option(help="Free text, at most 256 bytes.")] = "",
    expires: Expires = None,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Create a key. Its secret is printed now and never again."""
    with connect(server, token) as client:
        action = ManageKeyRequest.CreateKey(plan=plan, subject=subject, description=description)
        if expires:
            action.expire_time.CopyFrom(parse_expires(expires))
        created = client.manage_key(ManageKeyRequest(create=action)).create
    if as_json:
        print_json(created)
    else:
        _print_key(created.key)
        print_secret("API key", created.secret)


@app.command()
def get(key_id: KeyId, *, server: Server = None, token: Token = None, as_json: AsJson = False) -> None:
    """Show one key."""
    with connect(server, token) as client:
        key = client.manage_key(ManageKeyRequest(get=ManageKeyRequest.GetKey(key_id=key_id))).get.key
    (print_json if as_json else _print_key)(key)


@app.command("list")
def list_keys(
    *,
    subject: Annotated[str, typer.Option(help="Only keys of this subject.")] = "",
    plan: Annotated[str, typer.Option(help="Only keys on this plan.")] = "",
    page_size: PageSize = 0,
    page_token: PageToken = "",
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List keys in order of creation."""
    with connect(server, token) as client:
        action = ManageKeyRequest.ListKeys(subject=subject, plan=plan, page_size=page_size, page_token=page_token)
        page = client.manage_key(ManageKeyRequest(list=action)).list
    if as_json:
        print_json(page)
    else:
        _print_keys(page.keys)
        print_next_page(page.next_page_token)


@app.command()
def update(
    key_id: KeyId,
    *,
    plan: Annotated[str | None, typer.Option(help="Move the key to this plan.")] = None,
    description: Annotated[str | None, typer.Option(help="Free text; empty clears it.")] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="WHEN", help=f"A time, or from now on: 30d; `{_NEVER}` clears it.")
    ] = None,
    etag: Annotated[str, typer.Option(help="Refuse if the key has changed since this etag was read.")] = "",
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Change a key's plan, description or expiry."""
    with connect(server, token) as client:
        key = Key(key_id=key_id, etag=etag)
        mask = FieldMask()
        if plan is not None:
            key.plan = plan
            mask.paths.append("plan")
        if description is not None:
            key.description = description
            mask.paths.append("description")
        if expires is not None:
            if expires != _NEVER:
                key.expire_time.CopyFrom(parse_expires(expires))
            mask.paths.append("expire_time")
        if not mask.paths:
            raise CommandError.usage("nothing to change: give --plan, --description or --expires")
        action = ManageKeyRequest.UpdateKey(key=key, update_mask=mask)
        changed = client.manage_key(ManageKeyRequest(update=action)).update.key
    (print_json if as_json else _print_key)(changed)


@app.command()
def rotate(
    key_id: KeyId,
    *,
    overlap: Annotated[
        str, typer.Option(metavar="DURATION", help="How long the old secret stays valid: 0s to 30d, such as 1h.")
    ] = "0s",
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Replace a key's secret. The new one is printed now and never again."""
    with connect(server, token) as client:
        try:
            action = ManageKeyRequest.RotateKey(key_id=key_id, overlap=parse_duration(overlap))
        except ValueError as error:
            raise CommandError.usage(f"--overlap: {error}") from None
        rotated = client.manage_key(ManageKeyRequest(rotate=action)).rotate
    if as_json:
        print_json(rotated)
    else:
        _print_key(rotated.key)
        print_secret("API key", rotated.secret)


@app.command()
def suspend(key_id: KeyId, *, server: Server = None, token: Token = None, as_json: AsJson = False) -> None:
    """Deny a key's calls until it is resumed."""
    with connect(server, token) as client:
        action = ManageKeyRequest.SuspendKey(key_id=key_id)
        key = client.manage_key(ManageKeyRequest(suspend=action)).suspend.key
    (print_json if as_json else _print_key)(key)


@app.command()
def resume(key_id: KeyId, *, server: Server = None, token: Token = None, as_json: AsJson = False) -> None:
    """End a suspension."""
    with connect(server, token) as client:
        key = client.manage_key(ManageKeyRequest(resume=ManageKeyRequest.ResumeKey(key_id=key_id))).resume.key
    (print_json if as_json else _print_key)(key)


@app.command()
def revoke(key_id: KeyId, *, server: Server = None, token: Token = None, as_json: AsJson = False) -> None:
    """Deny a key's calls permanently."""
    with connect(server, token) as client:
        key = client.manage_key(ManageKeyRequest(revoke=ManageKeyRequest.RevokeKey(key_id=key_id))).revoke.key
    (print_json if as_json else _print_key)(key)


def _print_key(key: Key) -> None:
    print_fields(
        [
            ("key_id", key.key_id),
            ("subject", key.subject),
            ("plan", key.plan),
            ("state", Key.State.Name(key.state)),
            ("description", key.description),
            ("created", format_time(key.create_time)),
            ("changed", format_time(key.update_time)),
            ("expires", format_time(key.expire_time)),
            ("old secret until", format_time(key.previous_secret_expire_time)),
            ("etag", key.etag),
            *(("override", _describe_override(override)) for override in key.overrides),
        ]
    )


def _print_keys(keys: Iterable[Key]) -> None:
    print_table(
        ("KEY_ID", "SUBJECT", "PLAN", "STATE", "CREATED", "EXPIRES", "DESCRIPTION"),
        (
            (
                key.key_id,
                key.subject,
                key.plan,
                Key.State.Name(key.state),
                format_time(key.create_time),
                format_time(key.expire_time),
                key.description,
            )
            for key in keys
        ),
    )


def _describe_override(override: Override) -> str:
    until = format_time(override.expire_time)
    return describe_limit(override.limit) + (f", until {until}" if until else "")
