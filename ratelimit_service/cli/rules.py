"""`ratelimit-service rules ...`: the limits on descriptors, per domain."""

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Annotated

import typer

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageRulesRequest
from ratelimit_service._gen.ratelimit.v1.limit_pb2 import Limit
from ratelimit_service._gen.ratelimit.v1.rules_pb2 import DescriptorLimit, DescriptorRule, DomainRules
from ratelimit_service.api.key_admin.manage_rules import rules_to_proto
from ratelimit_service.bounded_yaml import MAX_BYTES
from ratelimit_service.cli.app import command_group
from ratelimit_service.cli.client import Client, connect
from ratelimit_service.cli.confirm import Yes, confirmed
from ratelimit_service.cli.errors import CommandError, Exit, report_errors
from ratelimit_service.cli.escaped import escaped
from ratelimit_service.cli.message_file import file_name, read_message, read_text
from ratelimit_service.cli.options import AsJson, PageSize, PageToken, Server, Token
from ratelimit_service.cli.output import describe_limit, print_fields, print_json, print_next_page, print_table
from ratelimit_service.cli.times import format_duration, format_time
from ratelimit_service.rules_import.envoy_ratelimit import Conversion
from ratelimit_service.rules_import.findings import Findings
from ratelimit_service.rules_import.importer import import_files, to_quota, to_token_bucket

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

_CONVERSIONS = {Algorithm.QUOTA: to_quota, Algorithm.TOKEN_BUCKET: to_token_bucket}


@app.command()
def replace(
    file: RulesFile,
    *,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Validate only; change nothing.")] = False,
    yes: Yes = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Replace all rules of a domain by those in a file, in force at once.

    If the file has an etag, this is refused if the domain's rules have changed since.
    """
    with connect(server, token) as client:
        rules = DomainRules()
        read_message(file, rules, "the rules of a domain")
        replaced = _replace(client, rules, yes=yes, validate_only=validate_only)
    (print_json if as_json else _print_rules)(replaced)


@app.command()
def get(
    domain: Domain,
    *,
    version: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Which version. 0 means the one in force.")] = 0,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show the rules of one domain. Their JSON is valid input for replace."""
    with connect(server, token) as client:
        action = ManageRulesRequest.GetRules(domain=domain, version=version)
        rules = client.manage_rules(ManageRulesRequest(get=action)).get.rules
    (print_json if as_json else _print_rules)(rules)


@app.command("list")
def list_rules(
    *,
    page_size: PageSize = 0,
    page_token: PageToken = "",
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List the domains by name, without their descriptors."""
    with connect(server, token) as client:
        action = ManageRulesRequest.ListRules(page_size=page_size, page_token=page_token)
        page = client.manage_rules(ManageRulesRequest(list=action)).list
    if as_json:
        print_json(page)
    else:
        _print_domains(page.domains)
        print_next_page(page.next_page_token)


@app.command()
def delete(
    domain: Domain,
    *,
    etag: Annotated[str, typer.Option(help="Refuse if the rules have changed since this etag was read.")] = "",
    yes: Yes = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Delete all rules of a domain, so that its descriptors pass, and show them as they were."""
    with connect(server, token) as client:

        def send(confirmation: str) -> DomainRules:
            action = ManageRulesRequest.DeleteRules(domain=domain, etag=etag, confirmation=confirmation)
            return client.manage_rules(ManageRulesRequest(delete=action)).delete.rules

        rules = confirmed(send, yes=yes)
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
    yes: Yes = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Import the YAML of envoyproxy/ratelimit: it replaces all rules of its domains.

    What behaves differently here is reported line by line on standard error. If a line cannot be read, or would be
    lost, nothing is imported.
    """
    with report_errors():
        imported = _read(files, _CONVERSIONS[algorithm])
    if not dry_run:
        with connect(server, token) as client:
            imported = [_replace(client, rules, yes=yes) for rules in imported]
    for rules in imported:
        (print_json if as_json else _print_rules)(rules)


def _replace(client: Client, rules: DomainRules, *, yes: bool, validate_only: bool = False) -> DomainRules:
    def send(confirmation: str) -> DomainRules:
        action = ManageRulesRequest.ReplaceRules(rules=rules, validate_only=validate_only, confirmation=confirmation)
        return client.manage_rules(ManageRulesRequest(replace=action)).replace.rules

    return confirmed(send, yes=yes)


def _read(files: list[typer.FileText], convert: Conversion) -> list[DomainRules]:
    texts = [(file_name(file), read_text(file, MAX_BYTES)) for file in files]
    findings = Findings()
    imported = import_files(texts, convert, findings)
    if findings.has_errors:
        shown = [str(finding) for finding in findings.all[:_MAX_FINDINGS]]
        more = len(findings.all) - len(shown)
        raise CommandError(Exit.USAGE, *shown, *[f"and {more:,} more"] * bool(more), "nothing was imported")
    for finding in findings.all:
        typer.echo(escaped(str(finding)), err=True)
    return [rules_to_proto(rules) for rules in imported]


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


def _print_domains(domains: Iterable[DomainRules]) -> None:
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
            for rules in domains
        ),
    )


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
