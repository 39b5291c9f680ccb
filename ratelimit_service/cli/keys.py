"""`ratelimit-service keys ...`: API keys."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest, ManageKeyResponse
from ratelimit_service._gen.ratelimit.v1.key_pb2 import Key
from ratelimit_service._gen.ratelimit.v1.limit_pb2 import Override
from ratelimit_service.cli.app import command_group
from ratelimit_service.cli.bulk_keys import StateChange, change_keys, create_keys
from ratelimit_service.cli.client import Client, connect
from ratelimit_service.cli.errors import CommandError
from ratelimit_service.cli.options import (
    AsJson,
    DryRun,
    Expires,
    Output,
    PageSize,
    PageToken,
    Server,
    Token,
    output_format,
    parse_expires,
    parse_labels,
    parse_option_time,
)
from ratelimit_service.cli.output import (
    Format,
    describe_limit,
    print_as,
    print_fields,
    print_json,
    print_next_page,
    print_secret,
    print_table,
)
from ratelimit_service.cli.times import format_time, parse_duration

app = command_group("Create, change, suspend and revoke API keys.")

KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's public id.")]
KeyIds = Annotated[list[str] | None, typer.Argument(metavar="[KEY_ID]...", help="The public ids of the keys.")]
IdFile = Annotated[
    typer.FileText | None, typer.Option("--file", help="A file with one key id a line, `-` for standard input.")
]
Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="A label. May be given several times.")
]
_NEVER = "never"
_STATUSES = tuple(name.lower() for name, number in Key.State.items() if number)


@app.command()
def create(
    *,
    plan: Annotated[str, typer.Option(help="The plan that sets the key's limits.")] = "",
    subject: Annotated[str, typer.Option(help="The holder of the limits. Keys of one subject share them.")] = "",
    description: Annotated[str, typer.Option(help="Free text, at most 256 bytes.")] = "",
    expires: Expires = None,
    label: Labels = None,
    file: Annotated[
        typer.FileText | None,
        typer.Option(
            help="Create many: a CSV file with the columns subject, plan, description, expires, label.<name>, or YAML "
            "or JSON with a list of keys, `-` for standard input. The other options fill in what it leaves out."
        ),
    ] = None,
    dry_run: DryRun = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Create a key, or many. Secrets are printed now and never again."""
    with connect(server, token, dry_run=dry_run) as client:
        action = ManageKeyRequest.CreateKey(
            plan=plan, subject=subject, description=description, labels=parse_labels(label or ())
        )
        if expires:
            action.expire_time.CopyFrom(parse_expires(expires))
        if file is not None:
            from ratelimit_service.cli.key_files import read_drafts  # noqa: PLC0415  few commands read files

            create_keys(client, read_drafts(file, action), as_json=as_json)
            return
        for option, value in (("--plan", plan), ("--subject", subject)):
            if not value:
                raise CommandError.usage(f"{option} is missing or empty; give both, or --file")
        created = client.manage_key(ManageKeyRequest(create=action)).create
    if as_json:
        print_json(created)
    else:
        _print_key(created.key)
        _print_secret(created.secret)


@app.command()
def get(
    key_id: KeyId, *, server: Server = None, token: Token = None, output: Output = Format.TABLE, as_json: AsJson = False
) -> None:
    """Show one key."""
    with connect(server, token) as client:
        key = client.manage_key(ManageKeyRequest(get=ManageKeyRequest.GetKey(key_id=key_id))).get.key
        print_as(output_format(output, as_json=as_json), key, _print_key)


@app.command("list")
def list_keys(
    *,
    subject: Annotated[str, typer.Option(help="Only keys of this subject.")] = "",
    subject_prefix: Annotated[str, typer.Option(help="Only keys of subjects that begin with this.")] = "",
    plan: Annotated[str, typer.Option(help="Only keys on this plan.")] = "",
    status: Annotated[
        str, typer.Option(help=f"Only keys in this state now: {', '.join(_STATUSES)}.", show_default=False)
    ] = "",
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="NAME=VALUE", help="Only keys with this label. May be given several times."),
    ] = None,
    expires_after: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only keys that expire then or later: a time, or 30d from now.")
    ] = None,
    expires_before: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only keys that expire before then: a time, or 30d from now.")
    ] = None,
    last_used_before: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only keys last used before then: a time, or 90d ago.")
    ] = None,
    never_used: Annotated[
        bool, typer.Option("--never-used", help="Only keys never used; with --last-used-before, these as well.")
    ] = False,
    search: Annotated[
        str, typer.Option(metavar="TEXT", help="Only the key of this public id, or of a part of one: rlk_live_<id>.")
    ] = "",
    page_size: PageSize = 0,
    page_token: PageToken = "",
    server: Server = None,
    token: Token = None,
    output: Output = Format.TABLE,
    as_json: AsJson = False,
) -> None:
    """List keys in order of creation: those that match all options that are given."""
    with connect(server, token) as client:
        action = ManageKeyRequest.ListKeys(
            subject=subject,
            subject_prefix=subject_prefix,
            plan=plan,
            labels=parse_labels(label or ()),
            never_used=never_used,
            page_size=page_size,
            page_token=page_token,
        )
        if status:
            if status.lower() not in _STATUSES:
                raise CommandError.usage(f"--status: {status!r} is none of {', '.join(_STATUSES)}")
            action.state = Key.State.Value(status.upper())
        if expires_after is not None:
            action.expires_after.CopyFrom(parse_option_time("--expires-after", expires_after))
        if expires_before is not None:
            action.expires_before.CopyFrom(parse_option_time("--expires-before", expires_before))
        if last_used_before is not None:
            action.last_used_before.CopyFrom(parse_option_time("--last-used-before", last_used_before, past=True))
        if search:
            action.search = _public_part(search)
        page = client.manage_key(ManageKeyRequest(list=action)).list
        print_as(output_format(output, as_json=as_json), page, _print_page)


@app.command()
def update(
    key_id: KeyId,
    *,
    plan: Annotated[str | None, typer.Option(help="Move the key to this plan.")] = None,
    description: Annotated[str | None, typer.Option(help="Free text; empty clears it.")] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="WHEN", help=f"A time, or from now on: 30d; `{_NEVER}` clears it.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="NAME=VALUE", help="Set this label. May be given several times."),
    ] = None,
    remove_label: Annotated[
        list[str] | None,
        typer.Option("--remove-label", metavar="NAME", help="Remove this label. May be given several times."),
    ] = None,
    etag: Annotated[str, typer.Option(help="Refuse if the key has changed since this etag was read.")] = "",
    dry_run: DryRun = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Change a key's plan, description, expiry or labels."""
    with connect(server, token, dry_run=dry_run) as client:
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
        if label or remove_label:
            _change_labels(client, key, parse_labels(label or ()), remove_label or ())
            mask.paths.append("labels")
        if not mask.paths:
            raise CommandError.usage(
                "nothing to change: give --plan, --description, --expires, --label or --remove-label"
            )
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
    dry_run: DryRun = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Replace a key's secret. The new one is printed now and never again."""
    with connect(server, token, dry_run=dry_run) as client:
        try:
            action = ManageKeyRequest.RotateKey(key_id=key_id, overlap=parse_duration(overlap))
        except ValueError as error:
            raise CommandError.usage(f"--overlap: {error}") from None
        rotated = client.manage_key(ManageKeyRequest(rotate=action)).rotate
    if as_json:
        print_json(rotated)
    else:
        _print_key(rotated.key)
        _print_secret(rotated.secret)


@app.command()
def suspend(
    key_ids: KeyIds = None,
    *,
    file: IdFile = None,
    dry_run: DryRun = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Deny the calls of a key, or of many, until they are resumed."""
    _change_state("suspend", key_ids, file, server, token, as_json=as_json, dry_run=dry_run)


@app.command()
def resume(
    key_ids: KeyIds = None,
    *,
    file: IdFile = None,
    dry_run: DryRun = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """End the suspension of a key, or of many."""
    _change_state("resume", key_ids, file, server, token, as_json=as_json, dry_run=dry_run)


@app.command()
def revoke(
    key_ids: KeyIds = None,
    *,
    file: IdFile = None,
    dry_run: DryRun = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Deny the calls of a key, or of many, permanently."""
    _change_state("revoke", key_ids, file, server, token, as_json=as_json, dry_run=dry_run)


def _change_state(
    action: StateChange,
    key_ids: Sequence[str] | None,
    file: typer.FileText | None,
    server: str | None,
    token: str | None,
    *,
    as_json: bool,
    dry_run: bool,
) -> None:
    with connect(server, token, dry_run=dry_run) as client:
        if (key_id := _single(key_ids, file)) is None:
            change_keys(client, action, _all_ids(key_ids, file), as_json=as_json)
            return
        request = ManageKeyRequest()
        getattr(request, action).key_id = key_id
        key = getattr(client.manage_key(request), action).key
    (print_json if as_json else _print_key)(key)


def _single(key_ids: Sequence[str] | None, file: typer.FileText | None) -> str | None:
    """The one key that a command names. None when it names many, or a file."""
    return key_ids[0] if key_ids and len(key_ids) == 1 and file is None else None


def _all_ids(key_ids: Sequence[str] | None, file: typer.FileText | None) -> Sequence[str]:
    found = list(key_ids or ())
    if file is not None:
        from ratelimit_service.cli.key_files import read_key_ids  # noqa: PLC0415  as above

        found += read_key_ids(file)
    if not found:
        raise CommandError.usage("no key: give KEY_ID, or --file with one key id a line")
    return found


def _change_labels(client: Client, key: Key, labels: Mapping[str, str], removed: Sequence[str]) -> None:
    """Put the key's labels as they are to be into KEY, with the etag that they were read with."""
    read = client.manage_key(ManageKeyRequest(get=ManageKeyRequest.GetKey(key_id=key.key_id))).get.key
    kept = {name: value for name, value in read.labels.items() if name not in removed}
    key.labels.update({**kept, **labels})
    key.etag = key.etag or read.etag


def _public_part(search: str) -> str:
    """What of a pasted API key is sent to the server."""
    from ratelimit_service.errors import InvalidArgument  # noqa: PLC0415  for --search alone
    from ratelimit_service.management.key_filter import public_part  # noqa: PLC0415

    try:
        return public_part(search)
    except InvalidArgument as error:
        raise CommandError.usage(f"--{error.message}") from None


def _print_secret(secret: str) -> None:
    if secret:  # a dry run makes none
        print_secret("API key", secret)


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
            ("last used", format_time(key.last_used_time)),
            ("old secret until", format_time(key.previous_secret_expire_time)),
            ("etag", key.etag),
            *(("label", f"{name}={value}") for name, value in sorted(key.labels.items())),
            *(("override", _describe_override(override)) for override in key.overrides),
        ]
    )


def _print_page(page: ManageKeyResponse.KeyPage) -> None:
    print_table(
        ("KEY_ID", "SUBJECT", "PLAN", "STATE", "CREATED", "EXPIRES", "LAST USED", "LABELS", "DESCRIPTION"),
        (
            (
                key.key_id,
                key.subject,
                key.plan,
                Key.State.Name(key.state),
                format_time(key.create_time),
                format_time(key.expire_time),
                format_time(key.last_used_time),
                ", ".join(f"{name}={value}" for name, value in sorted(key.labels.items())),
                key.description,
            )
            for key in page.keys
        ),
    )
    print_next_page(page.next_page_token)


def _describe_override(override: Override) -> str:
    until = format_time(override.expire_time)
    return describe_limit(override.limit) + (f", until {until}" if until else "")
