"""`doctor --server`: checks of servers that run, each by what it says of itself, and all of them beside each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Final, NamedTuple

from ratelimit_service.buckets.redis.room import SCARCE_FROM
from ratelimit_service.cli.doctor.certificates import certificate_finding
from ratelimit_service.cli.doctor.examined import (
    Examined,
    NotExamined,
    check_address,
    examine,
)
from ratelimit_service.cli.doctor.findings import Finding, Severity
from ratelimit_service.server.store_ways import Way

MAX_OFFSET_SECONDS: Final = 1.0
"""By which two clocks may differ: with NTP they do by milliseconds."""

MAX_FEED_AGE: Final = 10.0
"""Seconds since changes were in force; workers report half of that themselves, unless none is left."""

MAX_USAGE_LAG: Final = 180.0
"""Seconds from which on usage counts as late: it can be queried after 75 s as a rule."""


class _Mode(NamedTuple):
    """How bad a way is in which workers are degraded, and what to do about it."""

    severity: Severity
    remedy: str


_MODES: Final[Mapping[str, _Mode]] = {
    "feed": _Mode(
        Severity.ERROR,
        "a key that was revoked may still be accepted. If it is this server alone, its log says what its connection to "
        "Postgres lacks; if it is all of them, no server with the control plane runs, or none can write to Postgres",
    ),
    "store": _Mode(
        Severity.ERROR,
        "see whether Redis is dead or slow (ratelimit_store_round_trip_seconds), and what is between it and the server",
    ),
    "rows": _Mode(
        Severity.ERROR,
        "the log of the server names table and row; repair it by `plans update` or `keys update`",
    ),
    "eviction": _Mode(
        Severity.WARNING,
        "`CONFIG SET maxmemory-policy noeviction` on each Redis, and for good in its configuration",
    ),
    "lookups": _Mode(
        Severity.ERROR,
        "keys that are not in memory are refused: look for connections used up in Postgres, or a password that was "
        "changed",
    ),
    "listing": _Mode(
        Severity.WARNING,
        "look for a Postgres that is slow at reading the ids of all keys; `VACUUM keys` makes that faster",
    ),
}
"""By the modes of `ratelimit_degraded`. docs/runbook.md says more of each."""


_FIND: Final = "see that it runs, and run `doctor` beside that server"
_MEASURE: Final = (
    "run `redis-cli --latency` on its machine and on that of the server: slow on both, it is Redis (`redis-cli slowlog "
    "get 10`); on one, it is the network"
)
_REMEDIES: Final[Mapping[str, str]] = {
    Way.FAILING: "run `doctor` beside that server; its log has the error (`component does not answer`)",
    Way.HANGING: "it hangs, or what is between does (a proxy, a firewall): ask it on its own machine",
    Way.REFUSED: "it does not run, or listens elsewhere",
    Way.UNNAMED: "correct the name in the URL, or the DNS of that server",
    Way.SILENT: "its machine is away, or a firewall drops what is sent to it",
}
"""What to do about a store, by what is wrong with it."""


def check_servers(addresses: Sequence[str]) -> Iterator[Finding]:
    """Examine the servers whose operations ports are at ADDRESSES, then compare them. Of a gRPC port, what it reports.

    The subject of a finding begins with the address if there are several. Raises CommandError for what is no address.
    """
    for address in addresses:
        check_address(address)
    examined = []
    for address in addresses:
        try:
            server = examine(address)
        except NotExamined as error:
            from ratelimit_service.cli.doctor.grpc_port import check_grpc_port  # noqa: PLC0415  few are one

            by_grpc = check_grpc_port(address, datetime.now(UTC))
            for finding in by_grpc or [Finding.error("server", f"{address} {error}")]:
                yield replace(finding, subject=_subject(address, finding.subject, addresses))
            continue
        examined.append(server)
        for finding in findings_of(server, datetime.now(UTC)):
            yield replace(finding, subject=_subject(address, finding.subject, addresses))
    if len(examined) > 1:
        yield from compare(examined)


def findings_of(server: Examined, now: datetime) -> Iterator[Finding]:
    """What is wrong with one server."""
    yield _state(server)
    yield from _stores(server)
    yield from _clocks(server)
    yield from _modes(server)
    yield from _ages(server)
    yield from _webhook(server)
    yield from _memory(server)
    yield _schema(server)
    yield from _certificates(server, now)


def compare(servers: Sequence[Examined]) -> Iterator[Finding]:
    """What differs between servers that should be alike."""
    if len({server.facts.version for server in servers}) > 1:
        yield Finding.warning("versions", f"servers differ: {_versions(servers)}; finish the upgrade, or the rollback")
    else:
        yield Finding.ok("versions", f"all {len(servers)} servers are of version {servers[0].facts.version}")
    first, *_, last = sorted(servers, key=lambda server: server.clock_offset)
    apart = last.clock_offset - first.clock_offset
    if apart - first.clock_error - last.clock_error > MAX_OFFSET_SECONDS:
        yield Finding.warning(
            "clocks",
            f"that of {last.address} is {apart:.1f} s ahead of that of {first.address}: keys end there so much earlier;"
            " have both kept by NTP",
        )


def _subject(address: str, subject: str, addresses: Sequence[str]) -> str:
    return f"{address} {subject}" if len(addresses) > 1 else subject


def _versions(servers: Sequence[Examined]) -> str:
    """Each version, with the servers that have it."""
    ordered = sorted(servers, key=lambda server: server.facts.version)
    groups = groupby(ordered, key=lambda server: server.facts.version)
    return "; ".join(f"{version} on {', '.join(server.address for server in group)}" for version, group in groups)


def _state(server: Examined) -> Finding:
    facts = server.facts
    what = f"version {facts.version}, plane {facts.plane}, transport {facts.transport}"
    if not facts.ready:
        return Finding.error("server", f"{what}: {facts.state}; its log says why")
    workers = f"{facts.serving} of {facts.wanted} workers serve"
    if facts.serving < facts.wanted:
        return Finding.warning("server", f"{what}: {workers}; its log says why others end, or do not start")
    return Finding.ok("server", f"{what}; {workers}")


def _stores(server: Examined) -> Iterator[Finding]:
    facts = server.facts
    if not facts.stores_opened:
        yield Finding.error(
            "stores", "its operations process could not open them, and tries again; its log says what they answered"
        )
        return
    for name in ("postgres", "redis"):
        if effect := facts.silent.get(name):
            fault = facts.faults.get(name, "does not answer")
            remedy = _REMEDIES.get(fault, _MEASURE if name == "redis" and fault.startswith("answers") else _FIND)
            yield Finding.error(name, f"{fault}, as that server sees it: {effect}; {remedy}")
        else:
            yield Finding.ok(name, "answers that server")


def _clocks(server: Examined) -> Iterator[Finding]:
    """The server's clock beside those of its stores, and beside that of this machine."""
    found = False
    for name, offset in server.facts.clock_offsets.items():
        if abs(offset) > MAX_OFFSET_SECONDS:
            found = True
            yield Finding.warning(
                "clock",
                f"that of {name} is {_ahead(offset)} that of the server: limits and usage go by the clock of Redis, "
                "the ends of keys and overrides by that of the server; have both kept by NTP",
            )
    if abs(server.clock_offset) - server.clock_error > MAX_OFFSET_SECONDS:
        found = True
        yield Finding.warning(
            "clock",
            f"that of the server is {_ahead(server.clock_offset)} that of this machine: one of both is wrong; have "
            "both kept by NTP",
        )
    if not found and server.facts.clock_offsets:
        most = max(map(abs, server.facts.clock_offsets.values()))
        yield Finding.ok("clock", f"differs from those of its stores by {most * 1_000:.1f} ms at most")


def _ahead(seconds: float) -> str:
    return f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'}"


def _modes(server: Examined) -> Iterator[Finding]:
    """Each way in which workers are degraded, and whether limits refuse."""
    for mode, reason in server.facts.degraded.items():
        yield _mode(server, mode, reason)
    for reason in server.facts.reasons:
        yield Finding.warning("enforcement", f"{reason}; `ratelimit-service enforcement on` has limits refuse again")


def _mode(server: Examined, mode: str, reason: str) -> Finding:
    known = _MODES.get(mode, _Mode(Severity.WARNING, "docs/runbook.md of its version says what to do"))
    remedy = known.remedy
    if mode == "feed" and "postgres" in server.facts.silent:
        remedy = "a key that was revoked may still be accepted, until Postgres answers again"
    return Finding(mode, known.severity, f"{reason}: {remedy}")


def _ages(server: Examined) -> Iterator[Finding]:
    """How old what it decides by is, and what it has counted."""
    age = server.metrics.get("ratelimit_change_feed_age_seconds")
    if age is not None and "feed" not in server.facts.degraded:
        reason = f"changes of keys and plans were in force {age:.1f} s ago"
        # No worker may be left that would report it.
        yield Finding.ok("feed", reason) if age <= MAX_FEED_AGE else _mode(server, "feed", reason)
    lag = server.metrics.get("ratelimit_usage_lag_seconds")
    if lag is None:
        return
    if lag > MAX_USAGE_LAG:
        yield Finding.warning(
            "usage",
            f"what was counted in the last {lag:.0f} s is not in Postgres: figures and alerts are so old, decisions "
            "are not affected; the log of the server that leads says why it is not moved there",
        )
    else:
        yield Finding.ok("usage", f"counted up to {lag:.0f} s ago")


def _webhook(server: Examined) -> Iterator[Finding]:
    """What waits for it; nothing if there is none, or another process leads."""
    if waiting := server.metrics.get("ratelimit_alert_deliveries_pending"):
        yield Finding.warning(
            "webhook",
            f"messages about alerts that wait for it, since it does not accept them: {waiting:.0f}. The log of this "
            "server has its answers, and `ratelimit-service alerts test` sends one more",
        )


def _memory(server: Examined) -> Iterator[Finding]:
    share = server.metrics.get("ratelimit_store_memory_ratio")
    if share is None:
        return
    if share >= SCARCE_FROM:
        yield Finding.warning(
            "redis memory", f"{share:.0%} is used: new buckets are refused; give it more, or find who fills it"
        )
    else:
        yield Finding.ok("redis memory", f"{share:.0%} is used")


def _schema(server: Examined) -> Finding:
    schema = server.facts.schema
    if not schema.is_known:
        return Finding.warning(
            "schema", f"not known, since Postgres does not answer that server, which needs revision {schema.needed}"
        )
    if schema.obstacle:
        return Finding.error(
            "schema", f"{schema.obstacle}: what runs goes on as long as it can, and does not start again"
        )
    if schema.is_newer:
        return Finding.warning(
            "schema",
            f"is at revision {schema.found}, and that server is of the older {schema.needed}, which works on it; "
            "finish the upgrade",
        )
    return Finding.ok("schema", f"is at revision {schema.found}, as that server needs")


def _certificates(server: Examined, now: datetime) -> Iterator[Finding]:
    for file in server.facts.certificates:
        if file.error:
            yield Finding.error("certificate", f"{file.variable} cannot be read by that server: {file.error}")
        elif not file.ends:
            yield Finding.error(
                "certificate",
                f"{file.variable} names a file without a certificate; write the PEM file of the chain there",
            )
        else:
            yield certificate_finding(f"that in {file.variable}", file.ends, now)
