"""Importing files: one set of rules for each domain that they name."""

from collections.abc import Iterable

from ratelimit_service.decision.domain_rules import DomainRules
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.rules_import.conversion import Conversion
from ratelimit_service.rules_import.envoy_ratelimit import DomainFile, EnvoyRatelimitReader, PlacedNode
from ratelimit_service.rules_import.finding import Findings, Place


def import_files(files: Iterable[tuple[str, str]], convert: Conversion, findings: Findings) -> list[DomainRules]:
    """Read files, each a name and its text, and return the rules of each domain, in the order in which they are named.

    Files of one domain are joined. When `findings.refused` afterwards, the rules are not all that the files say.
    """
    reader = EnvoyRatelimitReader(convert, findings)
    domains: dict[str, list[DomainFile]] = {}
    for name, text in files:
        try:
            found = reader.read(name, text)
        except RecursionError:
            findings.error(Place(name, 1), "an anchor of the file holds itself")
            continue
        if found is not None:
            domains.setdefault(found.domain, []).append(found)
    return [rules for found in domains.values() if (rules := _joined(found, findings)) is not None]


def _joined(files: list[DomainFile], findings: Findings) -> DomainRules | None:
    first, *others = files
    for file in others:
        findings.note(file.place, f"domain {first.domain!r} is joined with that of {first.place}")
    nodes: dict[tuple[str, str], PlacedNode] = {}
    for file in files:
        for placed in file.nodes:
            before = nodes.setdefault((placed.node.key, placed.node.value), placed)
            if before is not placed:
                findings.error(placed.place, f"the same key and value as in {before.place}; make them one")
    try:
        return DomainRules(first.domain, tuple(placed.node for placed in nodes.values()))
    except InvalidArgument as fault:
        findings.error(first.place, fault.message)
        return None
