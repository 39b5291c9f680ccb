"""Descriptor rules, as a person sees them."""

from collections.abc import Iterable, Iterator

import typer

from ratelimit_service._gen.ratelimit.v1.limit_pb2 import Limit
from ratelimit_service._gen.ratelimit.v1.rules_pb2 import DescriptorLimit, DescriptorRule, DomainRules
from ratelimit_service.cli.moments import format_moment
from ratelimit_service.cli.output import print_facts, print_table
from ratelimit_service.cli.views.limit import describe_limit


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
