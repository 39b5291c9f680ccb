"""The dashboard for Grafana, `deploy/grafana/ratelimit-service.json`, from the panels below."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

FILE: Final = Path(__file__).resolve().parent.parent.parent / "deploy" / "grafana" / "ratelimit-service.json"
_COLUMNS: Final = 24
_HEIGHT: Final = 8
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_CHECKS: Final = 'method=~".*/(CheckLimit|ShouldRateLimit|Check)"'
_FAILURES: Final = 'code=~"UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED"'


class Panel(NamedTuple):
    """One panel. QUERIES are PromQL and the legend of each; `{}` in PromQL stands for the servers that are chosen.

    UNIT is Grafana's name of it. VALUES are words in place of values.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[tuple[str, str]]
    kind: str = "timeseries"
    width: int = 8
    values: Mapping[str, str] = {}


ROWS: Final[Mapping[str, Sequence[Panel]]] = {
    "Is it well?": (
        Panel(
            "Alerts that fire",
            "Of deploy/prometheus/rules.yaml, by name. docs/runbook.md says what to do about each.",
            "short",
            [
                (
                    'count by (alertname) (ALERTS{alertname=~"Ratelimit.+", alertstate="firing"}) or on() vector(0)',
                    "{{alertname}}",
                )
            ],
            "stat",
            4,
        ),
        Panel(
            "Workers that serve",
            "Of those that are configured, of all servers. Below 100 % some end or do not start.",
            "percentunit",
            [("sum(ratelimit_workers{}) / sum(ratelimit_workers_configured{})", "workers")],
            "stat",
            4,
        ),
        Panel(
            "Stores",
            "Whether Redis and Postgres answer all servers. Without Redis plans decide by on_store_failure; without "
            "Postgres keys that are not in memory are not decided, and nothing can be changed.",
            "short",
            [("min by (store) (ratelimit_store_up{})", "{{store}}")],
            "stat",
            4,
            {"0": "down", "1": "up"},
        ),
        Panel(
            "Enforcement",
            "Off while somebody has turned off all limits: `ratelimit-service enforcement status` says who, and why.",
            "short",
            [("max(ratelimit_enforcement_off{})", "limits")],
            "stat",
            4,
            {"0": "on", "1": "off"},
        ),
        Panel(
            "Versions",
            "How many servers run each. Two for longer than an upgrade takes mean that it has stopped half-way.",
            "short",
            [("count by (version, transport) (ratelimit_build_info{})", "{{version}}, {{transport}}")],
            "stat",
            8,
        ),
        Panel(
            "Calls that fail",
            "Share of calls that end with UNAVAILABLE, INTERNAL or DEADLINE_EXCEEDED. A gateway lets these requests "
            "pass or refuses them, as it is configured.",
            "percentunit",
            [
                (
                    (
                        f"sum by (instance) (rate(ratelimit_calls_total{{{_FAILURES}, {{}}}}[$__rate_interval])) "
                        "/ sum by (instance) (rate(ratelimit_calls_total{}[$__rate_interval])) or "
                        "0 * sum by (instance) (rate(ratelimit_calls_total{}[$__rate_interval]))"
                    ),
                    "{{instance}}",
                )
            ],
            width=12,
        ),
        Panel(
            "Degraded",
            "1 while a worker does not decide as it should, by what is wrong. /readyz of the server says why.",
            "short",
            [("max by (instance, mode) (ratelimit_degraded{})", "{{instance}} {{mode}}")],
            width=12,
        ),
    ),
    "Decisions": (
        Panel(
            "Decisions by reason",
            "On API keys, and on descriptors of Envoy's rate limit protocol.",
            "reqps",
            [
                ("sum by (reason) (rate(ratelimit_decisions_total{}[$__rate_interval]))", "{{reason}}"),
                (
                    "sum by (reason) (rate(ratelimit_descriptor_decisions_total{}[$__rate_interval]))",
                    "descriptors: {{reason}}",
                ),
            ],
        ),
        Panel(
            "Decisions by source",
            "STORE: exact, by Redis. POLICY: no bucket was needed. DEGRADED: without Redis. UNENFORCED: limits off.",
            "reqps",
            [("sum by (source) (rate(ratelimit_decisions_total{}[$__rate_interval]))", "{{source}}")],
        ),
        Panel(
            "Calls by method",
            "All calls that were answered, administration too. A batch is one call.",
            "reqps",
            [("sum by (method) (rate(ratelimit_calls_total{}[$__rate_interval]))", "{{method}}")],
        ),
        Panel(
            "Busiest plans",
            "Decisions on keys of each plan. Beyond 100 plans the rest is `other`.",
            "reqps",
            [("topk(10, sum by (plan) (rate(ratelimit_plan_decisions_total{}[$__rate_interval])))", "{{plan}}")],
        ),
        Panel(
            "Denied share by plan",
            "Of the decisions of a plan, those that a limit denied. A rise after a change of the plan: roll it back.",
            "percentunit",
            [
                (
                    (
                        'topk(10, sum by (plan) (rate(ratelimit_plan_decisions_total{outcome="denied", {}}'
                        "[$__rate_interval])) "
                        "/ sum by (plan) (rate(ratelimit_plan_decisions_total{}[$__rate_interval])))"
                    ),
                    "{{plan}}",
                )
            ],
        ),
        Panel(
            "Denials by limit",
            "Which limits deny, of plans and of descriptor rules.",
            "reqps",
            [
                (
                    "topk(10, sum by (plan, limit) (rate(ratelimit_limit_denials_total{}[$__rate_interval])))",
                    "{{plan}} {{limit}}",
                )
            ],
        ),
        Panel(
            "Reservations",
            "Made without being settled: callers let holds end. Gone: settled too late.",
            "ops",
            [("sum by (event) (rate(ratelimit_reservations_total{}[$__rate_interval]))", "{{event}}")],
            width=6,
        ),
        Panel(
            "Open reservations",
            "Of all servers together. After a worker has ended it is wrong until the holds of then are over, an hour "
            "at most.",
            "short",
            [("sum(ratelimit_open_reservations{})", "open")],
            width=6,
        ),
        Panel(
            "Open streams",
            "Streams of checks and of grants. A gateway needs one or a few for each connection.",
            "short",
            [("sum by (instance) (ratelimit_open_streams{})", "{{instance}}")],
            width=6,
        ),
        Panel(
            "Requests out of bounds, ignored fields",
            "Of Envoy's methods: too large or malformed, or with fields for which the gateway has no role. The log has "
            "an example of each.",
            "reqps",
            [
                (
                    "sum by (reason) (rate(ratelimit_out_of_bounds_requests_total{}[$__rate_interval]))",
                    "out of bounds: {{reason}}",
                ),
                ("sum by (reason) (rate(ratelimit_ignored_fields_total{}[$__rate_interval]))", "ignored: {{reason}}"),
            ],
            width=6,
        ),
    ),
    "Decided by gateways: grants and quotas": (
        Panel(
            "Grants",
            "Asked: requests for units of calls. Gone: returned too late, so that what was not spent stays charged. "
            "Withdrawn: keys that a stream has withdrawn, since they were revoked or changed.",
            "reqps",
            [("sum by (event) (rate(ratelimit_grants_total{}[$__rate_interval]))", "{{event}}")],
            width=6,
        ),
        Panel(
            "Units of grants",
            "Units of calls that were granted, returned unused, and spent, as clients report them. Usual: nearly all "
            "are spent. Mostly returned: clients want more than they need.",
            "ops",
            [("sum by (units) (rate(ratelimit_grant_units_total{}[$__rate_interval]))", "{{units}}")],
            width=6,
        ),
        Panel(
            "Open grants",
            "Of all servers together: how many keys clients hold units of, each client for itself. A grant lasts for a "
            "second at most.",
            "short",
            [("sum(ratelimit_open_grants{})", "open")],
            width=6,
        ),
        Panel(
            "Calls spent for each request",
            "How many calls clients decide by themselves for one request of units. At 1 a check does the same: the "
            "limit is small, or nearly used up, or shared by many clients.",
            "short",
            [
                (
                    (
                        'sum(rate(ratelimit_grant_units_total{units="spent", {}}[$__rate_interval])) '
                        '/ sum(rate(ratelimit_grants_total{event="asked", {}}[$__rate_interval]))'
                    ),
                    "calls",
                )
            ],
            width=6,
        ),
        Panel(
            "Units held, or lost",
            "Granted in the last 5 min, and neither spent nor returned: what clients hold, a second's worth of calls, "
            "and what has expired with clients that died. Choose all servers: clients return to any.",
            "short",
            [
                (
                    (
                        'sum(increase(ratelimit_grant_units_total{units="granted", {}}[5m])) '
                        '- sum(increase(ratelimit_grant_units_total{units=~"returned|spent", {}}[5m]))'
                    ),
                    "units",
                )
            ],
            width=6,
        ),
        Panel(
            "Requests that Envoys decided",
            "By quota assignments, as Envoys report them every five seconds. They are usage, and no decisions here.",
            "reqps",
            [("sum by (result) (rate(ratelimit_rlqs_requests_total{}[$__rate_interval]))", "{{result}}")],
            width=6,
        ),
        Panel(
            "Envoys with quotas",
            "Streams and buckets of all Envoys. Short: limits of which one is to have more than others have given up; "
            "a server that had Envoys was killed, or Redis is away.",
            "short",
            [
                ("sum(ratelimit_rlqs_streams{})", "streams"),
                ("sum(ratelimit_rlqs_buckets{})", "buckets"),
                ("sum(ratelimit_rlqs_short_shares{})", "short"),
            ],
            width=6,
        ),
        Panel(
            "Quota assignments",
            "Shares that were sent, by what they say. At rest one for each bucket and minute. Abandon: Envoy is to "
            "forget the bucket.",
            "ops",
            [
                ("sum by (strategy) (rate(ratelimit_rlqs_assignments_total{}[$__rate_interval]))", "{{strategy}}"),
                ("sum(rate(ratelimit_rlqs_reports_total{}[$__rate_interval]))", "reports"),
            ],
            width=6,
        ),
        Panel(
            "Tokens that Envoys spent",
            "Forgotten: the limit had no room for them, and checks do not know of them. Unanswered: buckets with a "
            "value that is not UTF-8, which get no assignment.",
            "ops",
            [
                ("sum by (result) (rate(ratelimit_rlqs_tokens_total{}[$__rate_interval]))", "{{result}}"),
                ("sum(rate(ratelimit_rlqs_unanswered_buckets_total{}[$__rate_interval]))", "buckets unanswered"),
            ],
            width=6,
        ),
    ),
    "In the gateways: metrics of the clients": (
        Panel(
            "Decisions of clients",
            "By who decided: GRANT is a unit that the client had, CACHE a denial that it had, FALLBACK nobody, since "
            "the service failed. Empty unless this Prometheus has the gateways' metrics, too (docs/metrics.md).",
            "reqps",
            [
                (
                    (
                        "sum by (ratelimit_origin, ratelimit_outcome) "
                        "(rate(ratelimit_client_decisions_total[$__rate_interval]))"
                    ),
                    "{{ratelimit_origin}}, {{ratelimit_outcome}}",
                )
            ],
            width=6,
        ),
        Panel(
            "Not checked",
            "Calls that clients allowed (open) or denied (closed) by themselves, since the service failed or was late, "
            "and reservations that stayed unsettled. Usual: none. Open ones are beyond every limit.",
            "reqps",
            [
                (
                    (
                        "sum by (ratelimit_outcome, ratelimit_status) "
                        "(rate(ratelimit_client_failures_total[$__rate_interval]))"
                    ),
                    "{{ratelimit_outcome}}, {{ratelimit_status}}",
                )
            ],
            width=6,
        ),
        Panel(
            "How long decisions take",
            "In the client, with the network, the retry, and the wait for units. Those that a unit in memory decides "
            "at once are not in it. Near the deadline, 50 ms unless it was set, calls fail open.",
            "s",
            [
                (
                    (
                        f"histogram_quantile({quantile}, sum by (le) "
                        "(rate(ratelimit_client_duration_seconds_bucket[$__rate_interval])))"
                    ),
                    f"p{quantile * 100:.0f}",
                )
                for quantile in (0.5, 0.99)
            ],
            width=6,
        ),
        Panel(
            "Decided without waiting",
            "The hit ratio of mode granted: decisions by units or denials that the client had. Low: limits that are "
            "small, nearly used up, or shared by many clients. Around 0 in mode checked.",
            "percentunit",
            [
                (
                    (
                        "1 - sum(rate(ratelimit_client_duration_seconds_count[$__rate_interval])) "
                        "/ sum(rate(ratelimit_client_decisions_total[$__rate_interval]))"
                    ),
                    "hit ratio",
                )
            ],
            width=6,
        ),
        Panel(
            "Units of clients",
            "Granted, returned unused, and expired before they were spent. Expired: the service may have counted them "
            "as used. Usual: a few in a hundred are returned, and next to none expire.",
            "ops",
            [
                (
                    "sum by (ratelimit_units) (rate(ratelimit_client_grant_units_total[$__rate_interval]))",
                    "{{ratelimit_units}}",
                )
            ],
        ),
        Panel(
            "Units held by clients",
            "Charged to limits, and not spent yet: calls of a second at most.",
            "short",
            [("sum(ratelimit_client_grant_units_held)", "held")],
        ),
        Panel(
            "Requests of units for 1,000 decisions",
            "What grants save. Checks of calls one by one are not in it. At 1,000 mode checked does the same.",
            "short",
            [
                (
                    (
                        "1000 * sum(rate(ratelimit_client_grant_requests_total[$__rate_interval])) "
                        "/ sum(rate(ratelimit_client_decisions_total[$__rate_interval]))"
                    ),
                    "requests",
                )
            ],
        ),
    ),
    "Latency": (
        Panel(
            "Checks",
            "How long CheckLimit, ShouldRateLimit and ext_authz's Check took in the server, waiting included. Compare "
            "it with the deadline of your gateways.",
            "s",
            [
                (
                    (
                        f"histogram_quantile({quantile}, sum by (le) "
                        f"(rate(ratelimit_call_duration_seconds_bucket{{{_CHECKS}, {{}}}}[$__rate_interval])))"
                    ),
                    label,
                )
                for quantile, label in ((0.5, "half"), (0.95, "95 %"), (0.99, "99 %"))
            ],
        ),
        Panel(
            "Checks by server, 99 %",
            "One server that is slower than the others: its machine, or its network to Redis.",
            "s",
            [
                (
                    (
                        "histogram_quantile(0.99, sum by (instance, le) "
                        f"(rate(ratelimit_call_duration_seconds_bucket{{{_CHECKS}, {{}}}}[$__rate_interval])))"
                    ),
                    "{{instance}}",
                )
            ],
        ),
        Panel(
            "Checks that take longer than 25 ms",
            "Share of them. Gateways with a deadline of 25 ms decide these requests without an answer.",
            "percentunit",
            [
                (
                    (
                        f'1 - sum(rate(ratelimit_call_duration_seconds_bucket{{le="0.025", {_CHECKS}, {{}}}}'
                        "[$__rate_interval])) "
                        f"/ sum(rate(ratelimit_call_duration_seconds_count{{{_CHECKS}, {{}}}}[$__rate_interval]))"
                    ),
                    "longer",
                )
            ],
        ),
        Panel(
            "How long checks take",
            "Calls in each range of time: two bands mean two kinds of calls, or two servers.",
            "s",
            [
                (
                    (
                        "sum by (le) "
                        f"(increase(ratelimit_call_duration_seconds_bucket{{{_CHECKS}, {{}}}}[$__rate_interval]))"
                    ),
                    "{{le}}",
                )
            ],
            "heatmap",
            12,
        ),
        Panel(
            "All methods, 99 %",
            "Administration takes tens of milliseconds, reports of usage up to seconds. Streams stay open.",
            "s",
            [
                (
                    (
                        "histogram_quantile(0.99, sum by (method, le) "
                        "(rate(ratelimit_call_duration_seconds_bucket{}[$__rate_interval])))"
                    ),
                    "{{method}}",
                )
            ],
            width=12,
        ),
    ),
    "Bucket store": (
        Panel(
            "Round trips",
            "How long Redis takes for a batch of charges, or a probe. Above RATELIMIT_STORE_SLOW plans decide by "
            "on_store_failure.",
            "s",
            [
                (
                    (
                        f"histogram_quantile({quantile}, sum by (le) "
                        "(rate(ratelimit_store_round_trip_seconds_bucket{}[$__rate_interval])))"
                    ),
                    label,
                )
                for quantile, label in ((0.5, "half"), (0.99, "99 %"))
            ],
        ),
        Panel(
            "Queue before round trips, 99 %",
            "How long the first call of a batch waited for the batch before. Longer than a round trip: workers are the "
            "limit.",
            "s",
            [
                (
                    (
                        "histogram_quantile(0.99, sum by (instance, le) "
                        "(rate(ratelimit_store_queue_seconds_bucket{}[$__rate_interval])))"
                    ),
                    "{{instance}}",
                )
            ],
        ),
        Panel(
            "Charges in a round trip",
            "How well calls share round trips: 1 at little load, tens under full load.",
            "short",
            [
                (
                    (
                        "sum by (instance) (rate(ratelimit_store_round_trip_charges_sum{}[$__rate_interval])) "
                        "/ sum by (instance) (rate(ratelimit_store_round_trip_charges_count{}[$__rate_interval]))"
                    ),
                    "{{instance}}",
                )
            ],
        ),
        Panel(
            "Failures and breaker",
            "Round trips that were not answered, and 1 while a worker has stopped asking and only tries now and then.",
            "short",
            [
                (
                    "sum by (instance) (rate(ratelimit_store_failures_total{}[$__rate_interval]))",
                    "{{instance}} failures/s",
                ),
                ("max by (instance) (ratelimit_store_breaker_open{})", "{{instance}} breaker"),
            ],
        ),
        Panel(
            "Memory",
            "Of the fullest Redis server. From 70 % on give it more; from 80 % on room for new buckets gets scarce.",
            "percentunit",
            [("max by (instance) (ratelimit_store_memory_ratio{})", "{{instance}}")],
        ),
        Panel(
            "Refused buckets, lost data",
            "New buckets without room, and times that Redis was found emptied or replaced, in the last hour.",
            "short",
            [
                ("sum(increase(ratelimit_refused_buckets_total{}[1h]))", "buckets refused"),
                ("sum by (cause) (increase(ratelimit_store_losses_total{}[1h]))", "{{cause}}"),
            ],
        ),
        Panel(
            "Tokens spent without Redis",
            "By what became of them when it was back. All but `charged` were spent beyond a limit.",
            "short",
            [("sum by (result) (rate(ratelimit_handed_over_tokens_total{}[$__rate_interval]))", "{{result}}")],
            width=12,
        ),
        Panel(
            "Quotas raised again",
            "After Redis had lost data: by what workers saw, and by what usage counted.",
            "short",
            [
                ("sum by (result) (increase(ratelimit_quota_raises_total{}[1h]))", "workers: {{result}}"),
                ("sum by (result) (increase(ratelimit_usage_quota_raises_total{}[1h]))", "usage: {{result}}"),
            ],
            width=12,
        ),
    ),
    "Policies and changes": (
        Panel(
            "Age of changes",
            "A revoked key is refused everywhere after so many seconds at most. Below 3 s when all is well.",
            "s",
            [("max by (instance) (ratelimit_change_feed_age_seconds{})", "{{instance}}")],
        ),
        Panel(
            "Changes that not all cached keys have",
            "Seconds since the oldest change of a plan or subject that is still being spread over the keys in memory.",
            "s",
            [("max by (instance) (ratelimit_policy_refresh_age_seconds{})", "{{instance}}")],
        ),
        Panel(
            "Policies in memory",
            "Of all processes of a server. At RATELIMIT_POLICY_CACHE_SIZE for each worker they do not fit any more.",
            "short",
            [("sum by (instance) (ratelimit_policy_cache_policies{})", "{{instance}}")],
        ),
        Panel(
            "Lookups",
            "Keys that were not in memory, calls whose key or token could not be looked up in time, and calls with an "
            "unknown key: somebody makes them up, or Postgres is slow.",
            "reqps",
            [
                ("sum(rate(ratelimit_policy_cache_misses_total{}[$__rate_interval]))", "keys looked up"),
                ("sum(rate(ratelimit_lookups_deferred_total{}[$__rate_interval]))", "keys not in time"),
                ("sum(rate(ratelimit_token_lookups_deferred_total{}[$__rate_interval]))", "tokens not in time"),
                (
                    'sum(rate(ratelimit_decisions_total{reason="KEY_UNKNOWN", {}}[$__rate_interval]))',
                    "calls, unknown key",
                ),
            ],
        ),
        Panel(
            "Rows that cannot be read",
            "What was valid last stays in force. The log names them.",
            "short",
            [
                ("max by (table) (ratelimit_unreadable_rows_now{})", "{{table}} now"),
                (
                    (
                        "sum(increase(ratelimit_unreadable_policies_total{}[1h])) + "
                        "sum(increase(ratelimit_unreadable_rules_total{}[1h])) + "
                        "sum(increase(ratelimit_unreadable_rows_total{}[1h]))"
                    ),
                    "found in the last hour",
                ),
            ],
        ),
        Panel(
            "Everything read again",
            "Times in the last hour. went_back: Postgres was restored from a backup, or lost transactions.",
            "short",
            [("sum by (cause) (increase(ratelimit_change_feed_gaps_total{}[1h]))", "{{cause}}")],
        ),
    ),
    "Overload": (
        Panel(
            "Calls refused",
            "Because there were too many. `share` alone: one caller has too many; others are not affected.",
            "reqps",
            [("sum by (cause) (rate(ratelimit_refused_calls_total{}[$__rate_interval]))", "{{cause}}")],
        ),
        Panel(
            "Calls that wait",
            "For their turn: how many, and the longest wait. Above 0 for minutes: too few workers.",
            "short",
            [
                ("sum by (instance) (rate(ratelimit_queue_seconds_count{}[$__rate_interval]))", "{{instance}} calls/s"),
                ("1000 * max by (instance) (ratelimit_queue_age_seconds{})", "{{instance}} longest, ms"),
            ],
        ),
        Panel(
            "Calls in flight",
            "Of each process, and the least bound: below 2,048 a worker has found that calls queue inside of it.",
            "short",
            [
                ("max by (instance, process) (ratelimit_process_calls_in_flight{})", "{{instance}} {{process}}"),
                ("min by (instance) (ratelimit_calls_in_flight_bound{})", "{{instance}} bound"),
            ],
        ),
    ),
    "Usage and alerts": (
        Panel(
            "How late usage is",
            "Figures come a minute or two after the calls. Decisions are not affected.",
            "s",
            [("max(ratelimit_usage_lag_seconds{})", "late")],
        ),
        Panel(
            "Backlog in Redis",
            "Counts that are not in Postgres yet. At RATELIMIT_USAGE_STORE_BYTES counts lose their resources, then "
            "calls are lost.",
            "bytes",
            [("max(ratelimit_usage_backlog_bytes{})", "backlog"), ("sum(ratelimit_usage_tally_bytes{})", "in workers")],
        ),
        Panel(
            "Leader",
            "Servers that move counts to Postgres: one.",
            "short",
            [("sum(ratelimit_usage_leader{})", "leaders")],
        ),
        Panel(
            "Calls lost from usage",
            "In the last hour; and those that Redis had no room to count, since its data began.",
            "short",
            [
                (
                    (
                        "sum(increase(ratelimit_usage_lost_calls_total{}[1h])) "
                        "+ sum(increase(ratelimit_usage_lost_total{}[1h]))"
                    ),
                    "lost",
                ),
                ("sum(increase(ratelimit_usage_unconfirmed_total{}[1h]))", "counted or not"),
                ("max(ratelimit_usage_store_lost_calls{})", "no room"),
                ("max(ratelimit_usage_store_squeezed_calls{})", "as `other`, no room"),
            ],
        ),
        Panel(
            "Flush",
            "Share of time that moving counts takes: near 100 % it falls behind.",
            "percentunit",
            [("sum(rate(ratelimit_usage_flush_seconds_total{}[$__rate_interval]))", "busy")],
        ),
        Panel(
            "Alerts of the service itself",
            "Of quotas, denials and degraded decisions (docs/alerts.md), and messages that wait for the webhook.",
            "short",
            [
                ("sum by (rule) (ratelimit_alerts_firing{})", "{{rule}}"),
                ("sum(ratelimit_alert_deliveries_pending{})", "messages that wait"),
            ],
        ),
    ),
    "Processes": (
        Panel(
            "Saturation",
            "How much of its one event loop each process uses. From 80 % on for long add workers, or servers.",
            "percentunit",
            [("max by (instance, process) (ratelimit_process_loop_busy_ratio{})", "{{instance}} {{process}}")],
        ),
        Panel(
            "CPU",
            "In cores, with all threads: beside the cores of the machine it shows what is left.",
            "short",
            [("max by (instance, process) (ratelimit_process_cpu_ratio{})", "{{instance}} {{process}}")],
        ),
        Panel(
            "Delay of the event loop",
            "For so long every call in the process stood still, at most in 10 s.",
            "s",
            [("max by (instance, process) (ratelimit_process_loop_delay_seconds{})", "{{instance}} {{process}}")],
        ),
        Panel(
            "Memory",
            "Resident, shared pages included.",
            "bytes",
            [("max by (instance, process) (ratelimit_process_resident_bytes{})", "{{instance}} {{process}}")],
            width=12,
        ),
        Panel(
            "Processes replaced",
            "In the last hour. A restart of the server or its release replaces each once.",
            "short",
            [
                (
                    "sum by (instance, process) (changes(ratelimit_process_start_time_seconds{}[1h]))",
                    "{{instance}} {{process}}",
                )
            ],
            width=12,
        ),
    ),
}


def dashboard() -> str:
    """The dashboard as JSON."""
    return (
        json.dumps(
            {
                "uid": "ratelimit-service",
                "title": "ratelimit-service",
                "description": "Whether the rate-limit service is well, what it decides, and how fast.",
                "tags": ["ratelimit-service"],
                "schemaVersion": 39,
                "editable": True,
                "graphTooltip": 1,
                "refresh": "30s",
                "time": {"from": "now-3h", "to": "now"},
                "timezone": "utc",
                "links": [],
                "annotations": {"list": []},
                "templating": {"list": [_data_source(), _servers()]},
                "panels": list(_panels()),
            },
            indent=2,
        )
        + "\n"
    )


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _servers() -> dict[str, Any]:
    query = "label_values(ratelimit_build_info, instance)"
    return {
        "name": "instance",
        "label": "Server",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": "servers"},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> Iterator[dict[str, Any]]:
    number = top = 0
    for title, panels in ROWS.items():
        number += 1
        position = {"h": 1, "w": _COLUMNS, "x": 0, "y": top}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": position, "panels": []}
        top += 1
        left = 0
        for panel in panels:
            number += 1
            if left + panel.width > _COLUMNS:
                left, top = 0, top + _HEIGHT
            yield _panel(number, panel, {"h": _HEIGHT, "w": panel.width, "x": left, "y": top})
            left += panel.width
        top += _HEIGHT


def _panel(number: int, panel: Panel, position: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": {"unit": panel.unit, "mappings": _mappings(panel.values)}, "overrides": []},
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": _with_servers(expression),
                "legendFormat": legend,
                "format": "heatmap" if panel.kind == "heatmap" else "time_series",
                "instant": False,
                "range": True,
            }
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _with_servers(expression: str) -> str:
    """PromQL with the servers that are chosen in every selector."""
    chosen = 'instance=~"$instance"'
    return expression.replace(", {}}", f", {chosen}}}").replace("{}", f"{{{chosen}}}")


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        return {"colorMode": "value", "graphMode": "area", "reduceOptions": reduce, "textMode": "auto"}
    if panel.kind == "heatmap":
        return {"calculate": False, "yAxis": {"unit": panel.unit}, "color": {"mode": "scheme", "scheme": "Oranges"}}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _mappings(values: Mapping[str, str]) -> list[dict[str, Any]]:
    if not values:
        return []
    return [{"type": "value", "options": {value: {"text": text} for value, text in values.items()}}]
