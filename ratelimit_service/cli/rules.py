"""`ratelimit-service rules ...`: the limits on descriptors, per domain."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import typer

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageRulesRequest, ManageRulesResponse
from ratelimit_service._gen.ratelimit.v1.limit_pb2 import Limit
from ratelimit_service._gen.ratelimit.v1.rules_pb2 import DescriptorLimit, DescriptorRule, DomainRules
from ratelimit_service.cli.app import command_group
from ratelimit_service.cli.client import Client, connect
from ratelimit_service.cli.confirm import Yes, confirm, confirmed
from ratelimit_service.cli.errors import CommandError, Exit, report_errors
from ratelimit_service.cli.escaped import escaped
from ratelimit_service.cli.options import AsJson, DryRun, Output, PageSize, PageToken, Server, Token, output_format
from ratelimit_service.cli.output import (
    Format,
    describe_limit,
    print_as,
    print_fields,
    print_json,
    print_next_page,
    print_table,
)
from ratelimit_service.cli.steps import ASK, effects, make_all, rehearse
from ratelimit_service.cli.times import format_duration, format_time
from ratelimit_service.decision.limit import MAX_TOKENS

app = command_group("Descriptor rules: the limits behind Envoy's rate limit protocol.")

Domain = Annotated[str, typer.Argument(metavar="DOMAIN", help="The domain, as the proxy sends it.")]
RulesFile = Annotated[
    typer.FileText,
    typer.Argument(
        metavar="FILE",
        help="The rules, as YAML or JSON in the shape of ratelimit.v1.DomainRules; - is standard input.",
    ),
]


class Algorithm(Enum):
    """What a fixed window is converted to."""

    QUOTA = "quota"
    TOKEN_BUCKET = "token-bucket"  # noqa: S105  no secret


_MAX_FINDINGS = 100
"""Lines about what stops an import. A file of another kind would have one for each of its own."""


@app.command()
def replace(
    file: RulesFile,
    *,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Validate only; change nothing.")] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Replace all rules of a domain by those in a file, in force at once.

    If the file has an etag, this is refused if the domain's rules have changed since.
    """
    from ratelimit_service.cli.message_file import read_message  # noqa: PLC0415  few commands read files

    with connect(server, token, dry_run=dry_run) as client:
        rules = DomainRules()
        read_message(file, rules, "the rules of a domain")

        def send(confirmation: str) -> DomainRules:
            return _replace(client, rules, confirmation, validate_only=validate_only)

        replaced = confirmed(send, yes=yes or dry_run)
    (print_json if as_json else _print_rules)(replaced)


@app.command()
def get(
    domain: Domain,
    *,
    version: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Which version. 0 means the one in force.")] = 0,
    server: Server = None,
    token: Token = None,
    output: Output = Format.TABLE,
    as_json: AsJson = False,
) -> None:
    """Show the rules of one domain. Their JSON is valid input for replace."""
    with connect(server, token) as client:
        action = ManageRulesRequest.GetRules(domain=domain, version=version)
        rules = client.manage_rules(ManageRulesRequest(get=action)).get.rules
        print_as(output_format(output, as_json=as_json), rules, _print_rules)


@app.command("list")
def list_rules(
    *,
    page_size: PageSize = 0,
    page_token: PageToken = "",
    server: Server = None,
    token: Token = None,
    output: Output = Format.TABLE,
    as_json: AsJson = False,
) -> None:
    """List the domains by name, without their descriptors."""
    with connect(server, token) as client:
        action = ManageRulesRequest.ListRules(page_size=page_size, page_token=page_token)
        page = client.manage_rules(ManageRulesRequest(list=action)).list
        print_as(output_format(output, as_json=as_json), page, _print_page)


@app.command()
def delete(
    domain: Domain,
    *,
    etag: Annotated[str, typer.Option(help="Refuse if the rules have changed since this etag was read.")] = "",
    yes: Yes = False,
    dry_run: DryRun = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Delete all rules of a domain, so that its descriptors pass, and show them as they were."""
    with connect(server, token, dry_run=dry_run) as client:

        def send(confirmation: str) -> DomainRules:
            action = ManageRulesRequest.DeleteRules(domain=domain, etag=etag, confirmation=confirmation)
            return client.manage_rules(ManageRulesRequest(delete=action)).delete.rules

        rules = confirmed(send, yes=yes or dry_run)
    (print_json if as_json else _print_rules)(rules)


@app.command("import")
def import_rules(
    files: Annotated[
        list[typer.FileText],
        typer.Argument(metavar="FILE...", help="Configuration files of envoyproxy/ratelimit; - is standard input."),
    ],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the result; call no server.")] = False,
    algorithm: Annotated[Algorithm, typer.Option("--as", help="What to convert fixed windows to.")] = Algorithm.QUOTA,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Import every limit in mode SHADOW, which counts and denies nothing.")
    ] = False,
    yes: Yes = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Import the YAML of envoyproxy/ratelimit: it replaces all rules of its domains.

    What behaves differently here is reported line by line on standard error. If a line cannot be read, or would be
    lost, nothing is imported. Of several domains, all are checked by the server before the first is changed, and those
    that have to be confirmed are listed.
    """
    show: Callable[[DomainRules], None] = print_json if as_json else _print_rules
    with report_errors():
        imported = _read(files, algorithm, shadow=shadow)
    if dry_run:
        for rules in imported:
            show(rules)
        return
    with connect(server, token) as client:
        _import(client, imported, show, yes=yes)


@app.command("test")
def try_rules(
    file: Annotated[
        typer.FileText,
        typer.Argument(metavar="FILE", help="The rules, as for `replace` or `apply`; - is standard input."),
    ],
    *,
    descriptor: Annotated[
        list[str],
        typer.Option(
            "--descriptor",
            metavar="KEY=VALUE,...",
            help="A descriptor of the request, with its entries in their order. May be repeated.",
        ),
    ],
    domain: Annotated[str, typer.Option("--domain", help="Which domain, if the file has several.")] = "",
    hits: Annotated[
        int, typer.Option("--hits", min=-MAX_TOKENS, max=MAX_TOKENS, help="Hits of each; 0 peeks, below 0 refunds.")
    ] = 1,
) -> None:
    """Show which rules in a file a request matches, and what they would decide, without a server.

    Exits with 1 if it is denied, 0 if it is allowed.
    """
    from ratelimit_service.cli import trials  # noqa: PLC0415  the engine, which other commands do not need
    from ratelimit_service.cli.configuration.documents import read_one  # noqa: PLC0415
    from ratelimit_service.cli.configuration.item import Kind  # noqa: PLC0415

    with report_errors():
        trials.try_rules(read_one(file, Kind.RULES, domain).rules, descriptor, hits)


def _replace(client: Client, rules: DomainRules, confirmation: str, *, validate_only: bool = False) -> DomainRules:
    action = ManageRulesRequest.ReplaceRules(rules=rules, validate_only=validate_only, confirmation=confirmation)
    return client.manage_rules(ManageRulesRequest(replace=action)).replace.rules


@dataclass(frozen=True)
class _Imported:
    """The rules of one domain, as a step of an import."""

    rules: DomainRules
    place: str = ""

    @property
    def name(self) -> str:
        return f"domains/{self.rules.domain}"

    @property
    def line(self) -> str:
        return self.name


def _import(client: Client, imported: Iterable[DomainRules], show: Callable[[DomainRules], None], *, yes: bool) -> None:
    """Replace the rules of each domain, and SHOW them as they are then. Raises CommandError with what was not made."""

    def replace_one(by: Client, step: _Imported, confirmation: str) -> DomainRules:
        return _replace(by, step.rules, confirmation)

    steps = [_Imported(rules) for rules in imported]
    needed = rehearse(client, steps, replace_one)
    if needed:
        confirm(effects(needed), ASK, yes=yes)
    make_all(client, steps, replace_one, needed, yes=lambda _: yes, made=lambda _, rules: show(rules))


def _read(files: list[typer.FileText], algorithm: Algorithm, *, shadow: bool) -> list[DomainRules]:
    from ratelimit_service.api.key_admin.rules_messages import rules_to_proto  # noqa: PLC0415  for `import` alone
    from ratelimit_service.bounded_yaml import MAX_BYTES  # noqa: PLC0415
    from ratelimit_service.cli.message_file import file_name, read_text  # noqa: PLC0415
    from ratelimit_service.rules_import.findings import Findings  # noqa: PLC0415
    from ratelimit_service.rules_import.importer import (  # noqa: PLC0415
        import_files,
        in_shadow,
        to_quota,
        to_token_bucket,
    )

    convert = to_quota if algorithm is Algorithm.QUOTA else to_token_bucket
    texts = [(file_name(file), read_text(file, MAX_BYTES)) for file in files]
    findings = Findings()
    imported = import_files(texts, convert, findings)
    if findings.has_errors:
        shown = [str(finding) for finding in findings.all[:_MAX_FINDINGS]]
        more = len(findings.all) - len(shown)
        raise CommandError(Exit.USAGE, *shown, *[f"and {more:,} more"] * bool(more), "nothing was imported")
    for finding in findings.all:
        typer.echo(escaped(str(finding)), err=True)
    return [rules_to_proto(in_shadow(rules) if shadow else rules) for rules in imported]


def _print_rules(rules: DomainRules) -> None:
    """Print all of one domain: a line for each descriptor, nested ones indented."""
    print_fields(
        [
            ("domain", rules.domain),
            ("version", str(rules.version) if rules.version else ""),
            ("description", rules.description),
            ("on store failure", DomainRules.OnStoreFailure.Name(rules.on_store_failure)),
            ("charge", DomainRules.Charge.Name(rules.charge)),
            ("hold", format_duration(rules.hold) if rules.HasField("hold") else ""),
            ("created", format_time(rules.create_time) if rules.version else ""),
            ("changed", format_time(rules.update_time) if rules.version else ""),
            ("etag", rules.etag),
        ]
    )
    typer.echo()
    for line in _rule_lines(rules.descriptors, 0):
        typer.echo(escaped(line))


def _print_page(page: ManageRulesResponse.RulesPage) -> None:
    print_table(
        ("DOMAIN", "VERSION", "ON STORE FAILURE", "CHANGED", "DESCRIPTION"),
        (
            (
                rules.domain,
                str(rules.version),
                DomainRules.OnStoreFailure.Name(rules.on_store_failure),
                format_time(rules.update_time),
                rules.description,
            )
            for rules in page.domains
        ),
    )
    print_next_page(page.next_page_token)


def _rule_lines(descriptors: Iterable[DescriptorRule], depth: int) -> Iterator[str]:
    for rule in descriptors:
        parts = [f"{'  ' * depth}{rule.key}{f'={rule.value}' if rule.value else ''}"]
        if rule.share_threshold:
            parts.append("(all values together)")
        if rule.limits:
            parts.append("; ".join(map(_describe_descriptor_limit, rule.limits)))
        elif not rule.descriptors:
            parts.append("passes")
        if rule.charge:
            parts.append(f"[charge: {DomainRules.Charge.Name(rule.charge)}]")
        if rule.on_store_failure:
            parts.append(f"[store failure: {DomainRules.OnStoreFailure.Name(rule.on_store_failure)}]")
        yield "  ".join(parts)
        yield from _rule_lines(rule.descriptors, depth + 1)


def _describe_descriptor_limit(limit: DescriptorLimit) -> str:
    kind = limit.WhichOneof("algorithm")
    if kind in {"unlimited", "blocked"}:
        text = f"{limit.name}: {kind}" if limit.name else str(kind)
        text += " (shadow)" * (limit.mode == Limit.SHADOW)
    else:
        counted = Limit(name=limit.name, mode=limit.mode, counts=limit.counts)
        if limit.HasField("overdraft"):
            counted.overdraft.CopyFrom(limit.overdraft)
        if kind == "quota":
            counted.quota.CopyFrom(limit.quota)
        else:
            counted.token_bucket.CopyFrom(limit.token_bucket)
        text = describe_limit(counted).removeprefix(": ")
    return text + f", replaces {', '.join(limit.replaces)}" * bool(limit.replaces)
