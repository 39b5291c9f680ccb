"""`ratelimit-service rules ...`: the limits of requests that are described by descriptors, per domain."""

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Annotated

import typer

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageRulesRequest
from ratelimit_service._gen.ratelimit.v1.limit_pb2 import Limit
from ratelimit_service._gen.ratelimit.v1.rules_pb2 import DescriptorLimit, DescriptorRule, DomainRules
from ratelimit_service.api.key_admin.manage_rules import from_domain_rules
from ratelimit_service.cli.app import command_group
from ratelimit_service.cli.client import connect
from ratelimit_service.cli.fault import Exit, Fault, report_faults
from ratelimit_service.cli.limit_view import describe_limit
from ratelimit_service.cli.message_file import read_message
from ratelimit_service.cli.options import AsJson, PageSize, PageToken, Server, Token
from ratelimit_service.cli.output import print_facts, print_json, print_next_page, print_table
from ratelimit_service.cli.times import format_moment
from ratelimit_service.rules_import.findings import Findings
from ratelimit_service.rules_import.importing import import_files, to_quota, to_token_bucket


def print_rules(rules: DomainRules) -> None:
    """Print all of one domain: a line for each descriptor, those below it further in."""
    print_facts(
        [
            ("domain", rules.domain),
            ("version", str(rules.version) if rules.version else ""),
            ("description", rules.description),
            ("on store failure", DomainRules.OnStoreFailure.Name(rules.on_store_failure)),
            ("created", format_moment(rules.create_time) if rules.version else ""),
            ("changed", format_moment(rules.update_time) if rules.version else ""),
            ("etag", rules.etag),
        ]
    )
    typer.echo()
    for line in _lines(rules.descriptors, 0):
        typer.echo(line)


def print_domains(domains: Iterable[DomainRules]) -> None:
    """Print one line for each domain."""
    print_table(
        ("DOMAIN", "VERSION", "ON STORE FAILURE", "CHANGED", "DESCRIPTION"),
        (
            (
                rules.domain,
                str(rules.version),
                DomainRules.OnStoreFailure.Name(rules.on_store_failure),
                format_moment(rules.update_time),
                rules.description,
            )
            for rules in domains
        ),
    )


def _lines(descriptors: Iterable[DescriptorRule], depth: int) -> Iterator[str]:
    for rule in descriptors:
        words = [f"{'  ' * depth}{rule.key}{f'={rule.value}' if rule.value else ''}"]
        if rule.share_threshold:
            words.append("(all values together)")
        if rule.limits:
            words.append("; ".join(map(_describe, rule.limits)))
        elif not rule.descriptors:
            words.append("passes")
        if rule.on_store_failure:
            words.append(f"[store failure: {DomainRules.OnStoreFailure.Name(rule.on_store_failure)}]")
        yield "  ".join(words)
        yield from _lines(rule.descriptors, depth + 1)


def _describe(limit: DescriptorLimit) -> str:
    kind = limit.WhichOneof("algorithm")
    if kind in {"unlimited", "blocked"}:
        words = f"{limit.name}: {kind}" if limit.name else str(kind)
        words += " (shadow)" * (limit.mode == Limit.SHADOW)
    else:
        counted = Limit(name=limit.name, mode=limit.mode)
        if kind == "quota":
            counted.quota.CopyFrom(limit.quota)
        else:
            counted.token_bucket.CopyFrom(limit.token_bucket)
        words = describe_limit(counted).removeprefix(": ")
    return words + f", replaces {', '.join(limit.replaces)}" * bool(limit.replaces)


app = command_group("Descriptor rules: the limits behind Envoy's rate limit protocol.")

Domain = Annotated[str, typer.Argument(metavar="DOMAIN", help="The domain, as the proxy names it.")]
RulesFile = Annotated[
    typer.FileText,
    typer.Argument(
        metavar="FILE", help="The rules, as YAML or JSON in the shape of ratelimit.v1.DomainRules; - reads it."
    ),
]


class Algorithm(Enum):
    """What a fixed window becomes."""

    QUOTA = "quota"
    TOKEN_BUCKET = "token-bucket"  # noqa: S105  no secret


_CONVERSIONS = {Algorithm.QUOTA: to_quota, Algorithm.TOKEN_BUCKET: to_token_bucket}


@app.command()
def replace(
    file: RulesFile,
    *,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Only check them; change nothing.")] = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Put the rules of a file in force, in the place of all that their domain has.

    If the file has an etag, this is refused when the domain's rules have changed since.
    """
    with connect(server, token) as client:
        rules = DomainRules()
        read_message(file, rules, "the rules of a domain")
        action = ManageRulesRequest.ReplaceRules(rules=rules, validate_only=validate_only)
        replaced = client.manage_rules(ManageRulesRequest(replace=action)).replace.rules
    (print_json if as_json else print_rules)(replaced)


@app.command()
def get(
    domain: Domain,
    *,
    version: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Which version. 0 means the one in force.")] = 0,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show the rules of one domain. The JSON can be given back to replace."""
    with connect(server, token) as client:
        action = ManageRulesRequest.GetRules(domain=domain, version=version)
        rules = client.manage_rules(ManageRulesRequest(get=action)).get.rules
    (print_json if as_json else print_rules)(rules)


@app.command("list")
def list_rules(
    *,
    page_size: PageSize = 0,
    page_token: PageToken = "",
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List the domains in the order of their names, without their descriptors."""
    with connect(server, token) as client:
        action = ManageRulesRequest.ListRules(page_size=page_size, page_token=page_token)
        page = client.manage_rules(ManageRulesRequest(list=action)).list
    if as_json:
        print_json(page)
    else:
        print_domains(page.domains)
        print_next_page(page.next_page_token)


@app.command()
def delete(
    domain: Domain,
    *,
    etag: Annotated[str, typer.Option(help="Refuse if the rules have changed since this etag was read.")] = "",
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Delete all rules of a domain, so that its descriptors pass, and show what they were."""
    with connect(server, token) as client:
        action = ManageRulesRequest.DeleteRules(domain=domain, etag=etag)
        rules = client.manage_rules(ManageRulesRequest(delete=action)).delete.rules
    (print_json if as_json else print_rules)(rules)


@app.command("import")
def import_rules(
    files: Annotated[
        list[typer.FileText],
        typer.Argument(metavar="FILE...", help="Configuration files of envoyproxy/ratelimit; - reads one."),
    ],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the result; ask no server.")] = False,
    algorithm: Annotated[Algorithm, typer.Option("--as", help="What their fixed windows become.")] = Algorithm.QUOTA,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Read the YAML of envoyproxy/ratelimit and put its rules in force, in the place of all that their domains have.

    What behaves differently here is told line by line on standard error. If a line cannot be read, or would be lost,
    nothing is put in force.
    """
    with report_faults():
        found = _read(files, algorithm)
    if not dry_run:
        with connect(server, token) as client:
            found = [
                client.manage_rules(
                    ManageRulesRequest(replace=ManageRulesRequest.ReplaceRules(rules=rules))
                ).replace.rules
                for rules in found
            ]
    for rules in found:
        (print_json if as_json else print_rules)(rules)


def _read(files: list[typer.FileText], algorithm: Algorithm) -> list[DomainRules]:
    texts = []
    for file in files:
        name = "standard input" if file.name == "<stdin>" else file.name
        try:
            texts.append((name, file.read()))
        except UnicodeDecodeError:
            raise Fault.usage(f"{name}: is not UTF-8") from None
    findings = Findings()
    imported = import_files(texts, _CONVERSIONS[algorithm], findings)
    if findings.refused:
        raise Fault(Exit.USAGE, (*map(str, findings.all), "nothing was imported"))
    for finding in findings.all:
        typer.echo(str(finding), err=True)
    return [from_domain_rules(rules) for rules in imported]
