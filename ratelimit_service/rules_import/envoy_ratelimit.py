"""The configuration format of envoyproxy/ratelimit: one domain per file, nested descriptors with a rate limit each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ratelimit_service.decision.descriptors.request import API_KEY
from ratelimit_service.decision.descriptors.rules import (
    MAX_DEPTH,
    MAX_NODES,
    Blocked,
    RuleLimit,
    RuleNode,
    Unlimited,
    check_domain,
)
from ratelimit_service.decision.limit import Mode, Quota, TokenBucket, Window
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.text import check_name
from ratelimit_service.rules_import.document import Document, Field, Value
from ratelimit_service.rules_import.findings import Findings, Place

Conversion = Callable[[int, Window, Place, Findings], TokenBucket | Quota]
"""Converts an amount (at least 1) per window to a limit, and notes at the place what is different about it."""


_MAX_REQUESTS: Final = 2**32 - 1
_UNITS: Final = {window.name: window for window in Window}

_OF_FILE: Final = {"domain", "descriptors"}
_OF_DESCRIPTOR: Final = {
    "key", "value", "rate_limit", "descriptors", "shadow_mode", "quota_mode", "share_threshold", "detailed_metric",
    "value_to_metric", "metadata",
}  # fmt: skip
_OF_LIMIT: Final = {"unit", "requests_per_unit", "unlimited", "name", "replaces"}
_KNOWN: Final = _OF_FILE | _OF_DESCRIPTOR | _OF_LIMIT


@dataclass(frozen=True, slots=True)
class PlacedNode:
    """A node of the first level and its line."""

    node: RuleNode
    place: Place


@dataclass(frozen=True, slots=True)
class DomainFile:
    """The content of one file: a domain, and the first level of its rules."""

    domain: str
    place: Place
    nodes: tuple[PlacedNode, ...]


class EnvoyRatelimitReader:
    """Reads files. What it reports about their lines it adds to `findings`."""

    def __init__(self, convert: Conversion, findings: Findings) -> None:
        self._convert = convert
        self._findings = findings
        self._count = 0

    def read(self, file: str, text: str) -> DomainFile | None:
        """Read one file. None, with an error, if it names no domain; nodes with an error are left out."""
        self._count = 0
        root = Document(file, text, self._findings).root()
        if root is None:
            return None
        fields = self._fields(root, "the file", _OF_FILE)
        if "domain" not in fields:
            self._findings.error(root.place, "domain is missing")
            return None
        domain = fields["domain"]
        name = domain.text("domain")
        try:
            check_domain("domain", name)
            check_name("domain", name)
        except InvalidArgument as error:
            self._findings.error(domain.place, error.message)
            return None
        nodes = self._level(fields.get("descriptors"), 1)
        return DomainFile(name, domain.place, tuple(nodes))

    def _level(self, descriptors: Field | None, depth: int) -> list[PlacedNode]:
        if descriptors is None:
            return []
        if depth > MAX_DEPTH:
            self._findings.error(descriptors.place, f"more than {MAX_DEPTH} levels of descriptors; leave this one out")
            return []
        nodes: list[PlacedNode] = []
        lines: dict[tuple[str, str], int] = {}
        for value in descriptors.items("descriptors"):
            self._count += 1
            if self._count > MAX_NODES:
                if self._count == MAX_NODES + 1:
                    self._findings.error(value.place, f"more than {MAX_NODES} descriptors; use several domains")
                break
            node = self._descriptor(value, depth)
            if node is None:
                continue
            first = lines.setdefault((node.key, node.value), value.place.line)
            if first != value.place.line:
                self._findings.error(value.place, f"the same key and value as in line {first}; merge them")
                continue
            nodes.append(PlacedNode(node, value.place))
        return nodes

    def _descriptor(self, value: Value, depth: int) -> RuleNode | None:
        fields = self._fields(value, "a descriptor", _OF_DESCRIPTOR)
        shares = "share_threshold" in fields and fields["share_threshold"].boolean("share_threshold")
        limit = self._limit(fields)
        below = self._level(fields.get("descriptors"), depth + 1)
        self._note_differences(fields)
        key, text = (fields[name].text(name) if name in fields else "" for name in ("key", "value"))
        if shares and "*" not in text:
            place = fields["share_threshold"].place
            self._findings.note(place, "share_threshold has no meaning for a value without a *")
            shares = False
        try:
            check_name("key", key)
            check_name("value", text)
            return RuleNode(
                key, text, () if limit is None else (limit,), tuple(placed.node for placed in below), shares
            )
        except InvalidArgument as error:
            self._findings.error(value.place, error.message)
            return None

    def _note_differences(self, fields: dict[str, Field]) -> None:
        for name in ("detailed_metric", "value_to_metric"):
            if name in fields and fields[name].boolean(name):
                self._findings.note(fields[name].place, f"{name} is left out: metrics here do not name descriptors")
        if "metadata" in fields:
            self._findings.note(fields["metadata"].place, "metadata is left out: responses here carry no rule metadata")
        if "quota_mode" in fields and fields["quota_mode"].boolean("quota_mode"):
            self._findings.note(
                fields["quota_mode"].place,
                "quota_mode is not supported: here this limit denies on its own; in envoyproxy/ratelimit a request is "
                "denied only when all of its quota_mode limits are over",
            )
        for name in ("shadow_mode", "quota_mode"):
            if name in fields and "rate_limit" not in fields:
                self._findings.note(fields[name].place, f"{name} has no meaning without a rate_limit beside it")
        key = fields["key"].text("key") if "key" in fields else ""
        if "*" in key:
            self._findings.note(
                fields["key"].place,
                "a * in a key is literal here; in envoyproxy/ratelimit it is a wildcard, as in a value",
            )
        if key == API_KEY:
            self._findings.note(
                fields["key"].place,
                f"a descriptor with an {API_KEY} entry is decided by that key's plan, so this rule will never apply; "
                "to keep it, rename the key here and in the proxy",
            )

    def _limit(self, descriptor: dict[str, Field]) -> RuleLimit | None:
        field = descriptor.get("rate_limit")
        if field is None or field.is_null:
            return None
        fields = self._fields(field, "rate_limit", _OF_LIMIT)
        algorithm = self._algorithm(field, fields)
        name = fields["name"].text("name") if "name" in fields else ""
        shadow = "shadow_mode" in descriptor and descriptor["shadow_mode"].boolean("shadow_mode")
        replaces = tuple(self._replaced_names(fields["replaces"])) if "replaces" in fields else ()
        if algorithm is None:
            return None
        try:
            check_name("name", name)
            for position, replaced in enumerate(replaces):
                check_name(f"replaces[{position}]", replaced)
            return RuleLimit(algorithm, name, Mode.SHADOW if shadow else Mode.ENFORCE, replaces)
        except InvalidArgument as error:
            place = fields["name"].place if error.violations[0].field == "name" else fields["replaces"].place
            self._findings.error(place, error.message)
            return None

    def _algorithm(self, field: Field, fields: dict[str, Field]) -> TokenBucket | Quota | Unlimited | Blocked | None:
        unit, requests = fields.get("unit"), fields.get("requests_per_unit")
        window = _UNITS.get(unit.text("unit").upper()) if unit is not None else None
        if "unlimited" in fields and fields["unlimited"].boolean("unlimited"):
            if window is not None and unit is not None:
                self._findings.error(unit.place, "an unlimited rate_limit must have no unit; remove one of the two")
            if requests is not None:
                self._findings.note(requests.place, "requests_per_unit has no meaning beside unlimited")
            return Unlimited()
        if window is None:
            place = field.place if unit is None else unit.place
            what = "unit is missing" if unit is None else f"unit is {unit.text('unit')[:80]!r}"
            self._findings.error(place, f"{what}; use second, minute, hour, day, week, month or year")
            return None
        amount = 0 if requests is None else requests.number("requests_per_unit")
        place = field.place if requests is None else requests.place
        if not 0 <= amount <= _MAX_REQUESTS:
            self._findings.error(place, f"requests_per_unit is {amount}; it must be between 0 and {_MAX_REQUESTS}")
            return None
        if requests is None:
            self._findings.note(place, "requests_per_unit is missing, which means 0: nothing is allowed")
        return self._convert(amount, window, place, self._findings) if amount else Blocked()

    def _replaced_names(self, field: Field) -> list[str]:
        names = []
        for value in field.items("replaces"):
            fields = self._fields(value, "an entry of replaces", {"name"})
            if "name" in fields:
                names.append(fields["name"].text("name"))
            else:
                self._findings.error(value.place, "an entry of replaces needs a name")
        return names

    def _fields(self, value: Value, what: str, allowed: set[str]) -> dict[str, Field]:
        fields = value.fields(what)
        for name, field in fields.items():
            if name in allowed:
                continue
            if name in _KNOWN:
                self._findings.note(field.place, f"{name} has no meaning in {what}, here or in envoyproxy/ratelimit")
            else:
                self._findings.error(field.place, f"unknown key {name[:80]!r} in {what}")
        return fields
