"""Every metric: what it counts, its labels with their values, and what to do with it.

A metric that is not described here cannot be made, and docs/metrics.md is generated from this file. Names follow
Prometheus' conventions: `ratelimit_`, what is measured, its base unit, and `_total` for what only grows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, TypeAlias

from ratelimit_service.alerts.alert import Rule
from ratelimit_service.decision.ports import Gap
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.tally import MAX_LIMITS, MAX_PLANS, OTHER
from ratelimit_service.degraded import MODES
from ratelimit_service.errors import Code
from ratelimit_service.metrics.counts import CALL_BOUNDS, SECONDS_BOUNDS, SIZE_BOUNDS, TURN_BOUNDS


class Kind(StrEnum):
    """What a metric is, in the words of Prometheus' text format."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


Values: TypeAlias = tuple[str, ...] | str
"""The values of a label: all that there are, or in words what they are."""


@dataclass(frozen=True, slots=True)
class Described:
    """One metric. `name` is that of its samples; those of a histogram end in _bucket, _sum and _count.

    `use` says what to do with it. `across` is what a gauge of several processes is shown as: their greatest, least or
    added value. `bounds` are a histogram's.
    """

    name: str
    kind: Kind
    meaning: str
    use: str
    labels: Mapping[str, Values] = field(default_factory=dict)
    across: Literal["max", "min", "sum"] = "max"
    bounds: tuple[float, ...] = ()


class Outcome(StrEnum):
    """What became of a call that a plan decided."""

    ALLOWED = "allowed"
    DENIED = "denied"
    REFUSED = "refused"
    DEGRADED_ALLOWED = "degraded_allowed"
    DEGRADED_DENIED = "degraded_denied"
    UNENFORCED = "unenforced"


_METHOD: Final = "full method name, such as `/ratelimit.v1.RateLimitService/CheckLimit`"
_CODES: Final = tuple(code.name for code in Code)
_REASONS: Final = tuple(reason.name for reason in Reason)
_SOURCES: Final = tuple(source.name for source in Source)
_PLAN: Final = f"name of the plan; `{OTHER}` for those beyond the first {MAX_PLANS} that a process decided by"
_PROCESS: Final = "`worker N` or `envoy N`, `control plane` (`health` where that is elsewhere), `operations`"


# Calls

CALLS: Final = Described(
    "ratelimit_calls_total",
    Kind.COUNTER,
    "Calls answered, by the gRPC code that the caller got. A denial is OK; a stream is one call, counted at its end.",
    "The rate of calls, and with `code` UNAVAILABLE, INTERNAL or DEADLINE_EXCEEDED the rate of failures.",
    {"method": _METHOD, "code": _CODES},
)
CALL_SECONDS: Final = Described(
    "ratelimit_call_duration_seconds",
    Kind.HISTOGRAM,
    "How long calls took, from their headers to their response, with the wait for their turn.",
    "Latency as callers see it, less the network: compare it with their deadline. Leave streams out, which stay open.",
    {"method": _METHOD, "code": _CODES},
    bounds=CALL_BOUNDS,
)
OPEN_STREAMS: Final = Described(
    "ratelimit_open_streams",
    Kind.GAUGE,
    "Streams of checks and of grants that are open.",
    "A gateway needs one or a few for each connection. A process closes the quietest beyond 2,000.",
    across="sum",
)
OUT_OF_BOUNDS: Final = Described(
    "ratelimit_out_of_bounds_requests_total",
    Kind.COUNTER,
    "Requests of Envoy's methods that were denied because they are too large or malformed.",
    "Not 0: a gateway's configuration sends what cannot be decided; the log has an example.",
    {"method": _METHOD, "reason": "why, in a word of the code's own"},
)
IGNORED_FIELDS: Final = Described(
    "ratelimit_ignored_fields_total",
    Kind.COUNTER,
    "Refunds, overrides, late charges and settlements of callers without role gateway, which need it.",
    "Not 0: give that gateway a token of role gateway, or stop sending them.",
    {"method": _METHOD, "reason": "which of them"},
)

# Decisions

DECISIONS: Final = Described(
    "ratelimit_decisions_total",
    Kind.COUNTER,
    "Decisions on API keys.",
    "What the service decides. `source` DEGRADED: without the bucket store; UNENFORCED: while limits are off; MEMORY: "
    "denied as the bucket store did a second ago at most.",
    {"reason": _REASONS, "source": _SOURCES},
)
DESCRIPTOR_DECISIONS: Final = Described(
    "ratelimit_descriptor_decisions_total",
    Kind.COUNTER,
    "Decisions on descriptors of Envoy's rate limit protocol, one per descriptor.",
    "As ratelimit_decisions_total, for Envoy's rate limit filter.",
    {"reason": _REASONS, "source": _SOURCES},
)
PLAN_DECISIONS: Final = Described(
    "ratelimit_plan_decisions_total",
    Kind.COUNTER,
    "Decisions on keys of a plan, by either protocol. Refused: the key is revoked, suspended or expired.",
    "Whom a change of a plan, or a fault, has hit. For single keys and more plans ask `ratelimit-service usage`.",
    {"plan": _PLAN, "outcome": tuple(Outcome)},
)
LIMIT_DENIALS: Final = Described(
    "ratelimit_limit_denials_total",
    Kind.COUNTER,
    "Decisions that a limit has denied; of several limits, the one that is reported to the caller.",
    "Which limit denies. A rise after a change of that limit: roll the change back.",
    {
        "plan": f"{_PLAN}; empty for descriptor rules",
        "limit": f"name of the limit, empty for a rule without one; `{OTHER}` beyond {MAX_LIMITS} plans and limits",
    },
)
REMEMBERED_DENIALS: Final = Described(
    "ratelimit_remembered_denials",
    Kind.GAUGE,
    "Limits of denials that are kept in memory to deny the same calls again, of all processes together; some are over.",
    "How many callers are refused now. At 10,000 for each worker the oldest are forgotten early, which costs nothing "
    "but questions to the bucket store.",
    across="sum",
)
REMEMBERS_DENIALS: Final = Described(
    "ratelimit_remembers_denials",
    Kind.GAUGE,
    "1 while a process remembers denials, because it hears what is returned to limits.",
    "0: RATELIMIT_REMEMBER_DENIALS is false, or Redis refuses `subscribe`: the log says so. Each call asks Redis then.",
)
RETURNED_HEARD: Final = Described(
    "ratelimit_returned_heard_total",
    Kind.COUNTER,
    "Limits of which a worker heard that something was refunded to them, or that limits of two rates charge the same.",
    "Its rate is what workers have to listen to: 10,000 a second for each take some percent of a core.",
)
RESERVATIONS: Final = Described(
    "ratelimit_reservations_total",
    Kind.COUNTER,
    "Reservations by event; repeated: the same again, which changes nothing; gone: settled or extended too late, or "
    "unknown; abandoned: settled at once at the estimate, because the caller had left or was answered without the "
    "bucket store.",
    "Made but not settled: callers let holds end, which keep their estimates charged. Gone: their holds are too short.",
    {"event": ("made", "repeated", "settled", "extended", "gone", "abandoned")},
)
OPEN_RESERVATIONS: Final = Described(
    "ratelimit_open_reservations",
    Kind.GAUGE,
    "Reservations that are open, to be added up over all servers: one that another server settles counts there as one "
    "less, so that a server alone may have less than none.",
    "Grows without end: callers do not settle, and holds are long. docs/token-budgets.md has what ended unsettled.",
    across="sum",
)
OVERDRAWN_CHARGES: Final = Described(
    "ratelimit_overdrawn_charges_total",
    Kind.COUNTER,
    "Settlements, and charges made afterwards, that left a limit owing tokens.",
    "Rises: estimates are too low, or charging afterwards lets too many calls in at once.",
)
CLAMPED_TOKENS: Final = Described(
    "ratelimit_clamped_tokens_total",
    Kind.COUNTER,
    "Tokens of settled calls above the overdraft of a limit: not charged.",
    "Rises: costs are far above their estimates; reserve more, or allow a larger overdraft.",
)
GRANTS: Final = Described(
    "ratelimit_grants_total",
    Kind.COUNTER,
    "Grants by event; asked: calls that want units; made: those that got some; repeated: the same grant or return "
    "again, which changes nothing; returned: with what was spent; gone: returned when the store did not know it any "
    "more, or never did; withdrawn: keys whose grants a stream has withdrawn.",
    "Made but not returned: holders die or forget to. Gone: they return too late, and what they did not spend stays "
    "charged.",
    {"event": ("asked", "made", "repeated", "returned", "gone", "withdrawn")},
)
GRANT_UNITS: Final = Described(
    "ratelimit_grant_units_total",
    Kind.COUNTER,
    "Units of grants: granted, returned unused, and spent, as holders report it.",
    "Granted less returned and spent, over all servers, is what holders have now, or have never reported: a second's "
    "worth of calls, unless they die.",
    {"units": ("granted", "returned", "spent")},
)
OPEN_GRANTS: Final = Described(
    "ratelimit_open_grants",
    Kind.GAUGE,
    "Grants that have neither ended nor been returned, to be added up over all servers: one that is returned to "
    "another counts there as one less, so that a server alone may have less than none.",
    "None, although clients are in mode granted: all their limits need each call, or are used up.",
    across="sum",
)
QUOTA_STREAMS: Final = Described(
    "ratelimit_rlqs_streams",
    Kind.GAUGE,
    "Streams of Envoy's rate limit quota service that are open.",
    "An Envoy has one for each domain. A process refuses more than 2,000, and more than 500 of one caller.",
    across="sum",
)
QUOTA_BUCKETS: Final = Described(
    "ratelimit_rlqs_buckets",
    Kind.GAUGE,
    "Buckets that Envoys have, of all streams.",
    "Some 3 KiB each here. A stream has 20,000 at most; Envoy forgets the least used ones of more.",
    across="sum",
)
SHORT_SHARES: Final = Described(
    "ratelimit_rlqs_short_shares",
    Kind.GAUGE,
    "Limits of which an Envoy is to have more than others have given up yet.",
    "Not 0 for long: a server that had Envoys was killed less than a minute ago, or Redis is away.",
    across="sum",
)
QUOTA_REPORTS: Final = Described(
    "ratelimit_rlqs_reports_total",
    Kind.COUNTER,
    "Messages with reports, of one bucket or of all that an Envoy has.",
    "Rises by one for each Envoy and five seconds, and for each new bucket: many of those are made-up values.",
)
ASSIGNED_REQUESTS: Final = Described(
    "ratelimit_rlqs_requests_total",
    Kind.COUNTER,
    "Requests that Envoys have decided by their assignments, as they report them.",
    "What Envoys decide by themselves. They count as usage, and not as decisions.",
    {"result": ("allowed", "denied")},
)
ASSIGNMENTS: Final = Described(
    "ratelimit_rlqs_assignments_total",
    Kind.COUNTER,
    "Assignments, by what they say; abandon: that Envoy is to forget the bucket.",
    "The rate at which shares change, or are renewed. deny_all of limits with an overdraft: use another protocol.",
    {"strategy": ("token_bucket", "allow_all", "deny_all", "abandon")},
)
ASSIGNED_TOKENS: Final = Described(
    "ratelimit_rlqs_tokens_total",
    Kind.COUNTER,
    "Tokens that Envoys have spent, by what became of them; forgotten: their limit had no room for them.",
    "Forgotten: limits that fill within half a second, or of which others spend far too much; checks do not see these.",
    {"result": ("charged", "forgotten")},
)
UNANSWERED_BUCKETS: Final = Described(
    "ratelimit_rlqs_unanswered_buckets_total",
    Kind.COUNTER,
    "Reports of buckets whose id Envoy could not read in an answer, since a value is not UTF-8.",
    "Clients send such values. Envoy does with them what `no_assignment_behavior` says.",
)
ENFORCEMENT_OFF: Final = Described(
    "ratelimit_enforcement_off",
    Kind.GAUGE,
    "1 while no limit refuses calls, because enforcement was turned off.",
    "1: somebody turned it off; `ratelimit-service enforcement status` has who and why.",
)

# Overload

REFUSED_CALLS: Final = Described(
    "ratelimit_refused_calls_total",
    Kind.COUNTER,
    "Calls refused because there were too many, by cause: no time left before the deadline, waited too long, the queue "
    "was full, the queue was full and the caller had most of it, or refused by Envoy at once.",
    "Not 0: the server is at its limit. Add workers or servers; `share` alone means that one caller has too many.",
    {"cause": ("deadline", "queue_age", "in_flight", "share", "shed")},
)
TURN_SECONDS: Final = Described(
    "ratelimit_queue_seconds",
    Kind.HISTOGRAM,
    "How long calls waited for their turn, of those that had to: under overload.",
    "Its rate is that of calls that had to wait: above 0 for minutes means too few workers.",
    bounds=TURN_BOUNDS,
)
QUEUE_AGE: Final = Described(
    "ratelimit_queue_age_seconds",
    Kind.GAUGE,
    "Longest wait of a call for its turn, in the last 50 ms of each worker.",
    "What to scale on: near 0 below what a server can decide, tens of milliseconds beyond.",
)
BOUND: Final = Described(
    "ratelimit_calls_in_flight_bound",
    Kind.GAUGE,
    "Calls that a worker has in flight at most; the least of all workers. 2,048 without overload.",
    "Below 2,048: calls queue inside of that worker, and it lets fewer begin.",
    across="min",
)

# The bucket store

STORE_SECONDS: Final = Described(
    "ratelimit_store_round_trip_seconds",
    Kind.HISTOGRAM,
    "Duration of round trips to the bucket store (Redis or Valkey), each with the charges of many calls; of probes and "
    "of what was given up, too.",
    "The store's part of a call. Above RATELIMIT_STORE_SLOW plans decide by on_store_failure.",
    bounds=SECONDS_BOUNDS,
)
STORE_QUEUE_SECONDS: Final = Described(
    "ratelimit_store_queue_seconds",
    Kind.HISTOGRAM,
    "How long the first call of each round trip had waited until it was sent: for the round trip before it.",
    "Larger than the round trips themselves: the worker, not the store, is what calls wait for.",
    bounds=SECONDS_BOUNDS,
)
STORE_CHARGES: Final = Described(
    "ratelimit_store_round_trip_charges",
    Kind.HISTOGRAM,
    "Charges in a round trip.",
    "How well calls share round trips: 1 at little load, tens under full load.",
    bounds=SIZE_BOUNDS,
)
STORE_FAILURES: Final = Described(
    "ratelimit_store_failures_total",
    Kind.COUNTER,
    "Round trips to the bucket store that were not answered, or with an error.",
    "Rises: Redis is away, slow or refuses the script; the log has its words.",
)
BREAKER_OPEN: Final = Described(
    "ratelimit_store_breaker_open",
    Kind.GAUGE,
    "1 while the circuit breaker of the bucket store is open in a worker.",
    "1: plans decide by on_store_failure until Redis answers again.",
)
STORE_MEMORY: Final = Described(
    "ratelimit_store_memory_ratio",
    Kind.GAUGE,
    "Share of the bucket store's memory that is used; of the fullest server.",
    "From 0.7 on give Redis more memory. From 0.8 on room for new buckets gets scarce.",
)
REFUSED_BUCKETS: Final = Described(
    "ratelimit_refused_buckets_total",
    Kind.COUNTER,
    "New buckets denied because the bucket store runs out of memory.",
    "Rises: callers without a bucket are denied; give Redis more memory now.",
)
STORE_LOSSES: Final = Described(
    "ratelimit_store_losses_total",
    Kind.COUNTER,
    "Times that a worker found the bucket store emptied, or another server in its place.",
    "`emptied`: find out who or what emptied Redis. `other_server`: a failover, or a new address.",
    {"cause": ("emptied", "other_server")},
)
QUOTA_RAISES: Final = Described(
    "ratelimit_quota_raises_total",
    Kind.COUNTER,
    "Quotas to be raised again after the bucket store lost data, by what workers saw: raised; current (no less was "
    "used); ended; failed.",
    "After a loss `raised` rises. `failed` is tried again.",
    {"result": ("raised", "current", "ended", "failed")},
)
HANDED_OVER: Final = Described(
    "ratelimit_handed_over_tokens_total",
    Kind.COUNTER,
    "Tokens spent while the bucket store was away, by what became of them when it was back: charged; empty (their "
    "buckets had no more); unconfirmed (charged or not: no reply); forgotten (too many buckets).",
    "How exact limits are after an outage: all but `charged` were spent beyond a limit.",
    {"result": ("charged", "empty", "unconfirmed", "forgotten")},
)

# Policies and changes

FEED_AGE: Final = Described(
    "ratelimit_change_feed_age_seconds",
    Kind.GAUGE,
    "Age of the changes in force, from where they are written to here; of the worker that is most behind.",
    "Below 3 s when all is well. Above 5 s a revoked key may still be accepted.",
)
REFRESH_AGE: Final = Described(
    "ratelimit_policy_refresh_age_seconds",
    Kind.GAUGE,
    "Seconds since the oldest change of a plan or subject that not all cached keys have yet; 0: they have all.",
    "Tens of seconds: a plan of very many keys has changed, or Postgres is slow.",
)
FEED_GAPS: Final = Described(
    "ratelimit_change_feed_gaps_total",
    Kind.COUNTER,
    "Times that all was read again, because changes may be missing.",
    "`went_back`: Postgres was restored from a backup, or lost transactions. `restarted`: with each restart of it.",
    {"cause": tuple(gap.value for gap in Gap)},
)
POLICIES: Final = Described(
    "ratelimit_policy_cache_policies",
    Kind.GAUGE,
    "Policies in memory, of all processes together.",
    "At RATELIMIT_POLICY_CACHE_SIZE for each worker: keys in use do not fit, and are read again and again.",
    across="sum",
)
POLICY_MISSES: Final = Described(
    "ratelimit_policy_cache_misses_total",
    Kind.COUNTER,
    "Policy look-ups that were not answered from memory.",
    "High for long: made-up keys, or a cache that is too small.",
)
LOOKUPS_DEFERRED: Final = Described(
    "ratelimit_lookups_deferred_total",
    Kind.COUNTER,
    "Calls denied because their key could not be looked up in time: too many unknown ones are waiting.",
    "Rises: somebody makes keys up, or Postgres is slow.",
)
TOKEN_LOOKUPS_DEFERRED: Final = Described(
    "ratelimit_token_lookups_deferred_total",
    Kind.COUNTER,
    "Calls turned away because their token could not be looked up in time: too many unknown ones wait.",
    "Rises: somebody makes tokens up, or Postgres is slow.",
)
UNREADABLE_POLICIES: Final = Described(
    "ratelimit_unreadable_policies_total",
    Kind.COUNTER,
    "Rows read that are not a valid policy.",
    "Rises: somebody wrote past the API; the log names the row.",
)
UNREADABLE_RULES: Final = Described(
    "ratelimit_unreadable_rules_total",
    Kind.COUNTER,
    "Rows read that are not valid descriptor rules.",
    "Rises: somebody wrote past the API; the log names the row.",
)
UNREADABLE_ROWS: Final = Described(
    "ratelimit_unreadable_rows_total",
    Kind.COUNTER,
    "How often a row of Postgres was found that cannot be read.",
    "Rises: somebody wrote past the API; the log names the row.",
    {"table": "table of Postgres"},
)
UNREADABLE_ROWS_NOW: Final = Described(
    "ratelimit_unreadable_rows_now",
    Kind.GAUGE,
    "Rows of Postgres that cannot be read at present; what was valid last is in force.",
    "Not 0: the log names them; repair them by the API.",
    {"table": "table of Postgres"},
)

# Usage

USAGE_LAG: Final = Described(
    "ratelimit_usage_lag_seconds",
    Kind.GAUGE,
    "Seconds since all counts of closed minutes were in Postgres; near 0 in servers that do not lead.",
    "Above 3 minutes figures are late; decisions are not affected.",
)
USAGE_LEADER: Final = Described(
    "ratelimit_usage_leader",
    Kind.GAUGE,
    "1 in the server that moves counts to Postgres.",
    "The sum over all servers is 1, but for a moment when the leader changes.",
)
USAGE_BACKLOG_SEGMENTS: Final = Described(
    "ratelimit_usage_backlog_segments",
    Kind.GAUGE,
    "Segments (minutes of counts) in the bucket store that are to be moved.",
    "Grows: Postgres is away or slow, or nobody leads.",
)
USAGE_BACKLOG_BYTES: Final = Described(
    "ratelimit_usage_backlog_bytes",
    Kind.GAUGE,
    "Bytes of the segments in the bucket store that are to be moved.",
    "Near RATELIMIT_USAGE_STORE_BYTES counts lose their resources, then calls are lost.",
)
USAGE_ROWS: Final = Described(
    "ratelimit_usage_rows_flushed_total",
    Kind.COUNTER,
    "Counts of a series in a minute that were moved to Postgres.",
    "How much usage costs Postgres.",
)
USAGE_SEGMENTS: Final = Described(
    "ratelimit_usage_segments_flushed_total",
    Kind.COUNTER,
    "Segments that were moved to Postgres.",
    "One a minute for each node of the bucket store, as long as there are calls.",
)
USAGE_MERGED: Final = Described(
    "ratelimit_usage_merged_segments_total",
    Kind.COUNTER,
    "Segments that span several minutes, because the bucket store had little room for counts.",
    "Rises: allow more by RATELIMIT_USAGE_STORE_BYTES, or have Postgres back sooner.",
)
USAGE_OTHER: Final = Described(
    "ratelimit_usage_other_calls_total",
    Kind.COUNTER,
    f"Calls counted as resource `{OTHER}`: their key had 100 resources on that day.",
    "Rises: resources have ids in their names; send a route in place of a path.",
)
USAGE_FLUSHES: Final = Described(
    "ratelimit_usage_flushes_total",
    Kind.COUNTER,
    "Transactions that moved counts to Postgres.",
    "ratelimit_usage_flush_seconds_total divided by it is how long a transaction takes.",
)
USAGE_FLUSH_SECONDS: Final = Described(
    "ratelimit_usage_flush_seconds_total",
    Kind.COUNTER,
    "Time that moving counts to Postgres took, reading and removing included.",
    "Its rate is the share of time that is spent on it: near 1 it falls behind.",
)
USAGE_LOST_CALLS: Final = Described(
    "ratelimit_usage_lost_calls_total",
    Kind.COUNTER,
    "Calls that are known to be lost from usage.",
    "Rises: usage is incomplete; `ratelimit-service usage` says of which time.",
)
USAGE_LOSSES: Final = Described(
    "ratelimit_usage_losses_total",
    Kind.COUNTER,
    "Times that the bucket store was found to have lost counts.",
    "Rises: Redis lost data; `ratelimit-service usage` says of which time.",
    {
        "cause": (
            "segments are missing",
            "the store restarted empty",
            "the store went back to an earlier state",
            "a segment vanished from the store",
            "counts could not be read",
        )
    },
)
USAGE_UNREADABLE: Final = Described(
    "ratelimit_usage_unreadable_total",
    Kind.COUNTER,
    "Counts of the bucket store that could not be read.",
    "Rises: somebody wrote to Redis beside the service.",
)
USAGE_RAISES: Final = Described(
    "ratelimit_usage_quota_raises_total",
    Kind.COUNTER,
    "Quotas of keys to be raised by usage after the bucket store lost its data: raised; current (no less was used); "
    "ended; incomplete (raised, but usage of the whole window is not kept); unreadable; failed.",
    "After a loss `raised` rises. `failed` is tried again.",
    {"result": ("raised", "current", "ended", "incomplete", "unreadable", "failed")},
)
USAGE_STORE_LOST: Final = Described(
    "ratelimit_usage_store_lost_calls",
    Kind.GAUGE,
    "Calls that the bucket store had no room to count, since its data began.",
    "Not 0: raise RATELIMIT_USAGE_STORE_BYTES.",
)
USAGE_STORE_SQUEEZED: Final = Described(
    "ratelimit_usage_store_squeezed_calls",
    Kind.GAUGE,
    f"Calls counted as resource `{OTHER}` for lack of room, since the bucket store's data began.",
    "Not 0: raise RATELIMIT_USAGE_STORE_BYTES.",
)
USAGE_TALLY_BYTES: Final = Described(
    "ratelimit_usage_tally_bytes",
    Kind.GAUGE,
    "Memory of counts that are not in the bucket store yet, of all processes together.",
    "Grows while Redis is away, up to 16 MiB for each process.",
    across="sum",
)
USAGE_LOST: Final = Described(
    "ratelimit_usage_lost_total",
    Kind.COUNTER,
    "Calls that a worker could not count: its memory for counts was full, or it ended without the bucket store.",
    "Rises: Redis has been away for long; usage of that time is incomplete.",
)
USAGE_UNCONFIRMED: Final = Described(
    "ratelimit_usage_unconfirmed_total",
    Kind.COUNTER,
    "Calls sent to the bucket store and never answered: they may be counted or not.",
    "How far usage can be wrong after faults of Redis.",
)

# Alerts of the service itself

ALERTS_FIRING: Final = Described(
    "ratelimit_alerts_firing",
    Kind.GAUGE,
    "Alerts of the service itself (docs/alerts.md) that are firing. 0 in servers that do not lead.",
    "`ratelimit-service alerts list` has them.",
    {"rule": tuple(rule.value for rule in Rule)},
    across="sum",
)
ALERT_SUBJECTS_UNREAD: Final = Described(
    "ratelimit_alert_subjects_unread",
    Kind.GAUGE,
    "Subjects near a quota that the last evaluation left out: of more than 500 it checks some, by chance.",
    "Not 0 for long: alerts of quotas may come late.",
    across="sum",
)
ALERT_DELIVERIES: Final = Described(
    "ratelimit_alert_deliveries_total",
    Kind.COUNTER,
    "Attempts to deliver a message to the webhook, by outcome. A message is given up after a day.",
    "`failed` rises: the webhook does not accept messages; the log has why.",
    {"outcome": ("delivered", "failed", "given_up")},
)
ALERT_DELIVERIES_PENDING: Final = Described(
    "ratelimit_alert_deliveries_pending",
    Kind.GAUGE,
    "Messages to the webhook that are yet to be delivered.",
    "Grows: the webhook does not accept messages.",
    across="sum",
)

# The server and its processes

WORKERS: Final = Described(
    "ratelimit_workers",
    Kind.GAUGE,
    "Workers of this server that serve.",
    "Below ratelimit_workers_configured: some end or do not start; their log says why. 0: no call is decided here.",
)
WORKERS_CONFIGURED: Final = Described(
    "ratelimit_workers_configured",
    Kind.GAUGE,
    "Workers that this server should have (RATELIMIT_WORKERS).",
    "ratelimit_workers is as many when all is well.",
)
STORE_UP: Final = Described(
    "ratelimit_store_up",
    Kind.GAUGE,
    "1 if a store answered the last probe of this server, within a second; 0 also before the first.",
    "0 for one server: its network. For all: the store.",
    {"store": ("redis", "postgres")},
)
DEGRADED: Final = Described(
    "ratelimit_degraded",
    Kind.GAUGE,
    "1 while a worker does not decide as it should, by what is wrong.",
    "/readyz says why, and what it does to decisions.",
    {"mode": MODES},
)
CERTIFICATE_END: Final = Described(
    "ratelimit_certificate_end_time_seconds",
    Kind.GAUGE,
    "When the first certificate in the file of a setting ends, in seconds since 1970. None without TLS.",
    "Less time() it is how long there is left to renew it; a renewed file is read again by itself.",
    {"setting": ("RATELIMIT_TLS_CERTIFICATE", "RATELIMIT_TLS_CLIENT_CA")},
)
BUILD: Final = Described(
    "ratelimit_build_info",
    Kind.GAUGE,
    "1, with what this server runs as labels.",
    "Which servers have which version: two for long mean an upgrade that stopped half-way.",
    {"version": "of this package", "python": "version of Python", "transport": ("envoy", "grpcio")},
)
PROCESS_START: Final = Described(
    "ratelimit_process_start_time_seconds",
    Kind.GAUGE,
    "When the process started, in seconds since 1970.",
    "Changes: it was replaced. Often: it ends by itself, and the log says why.",
    {"process": _PROCESS},
)
PROCESS_CPU: Final = Described(
    "ratelimit_process_cpu_ratio",
    Kind.GAUGE,
    "CPU that the process used in the last 10 s, in cores, of all its threads.",
    "The sum over a server, beside its cores, is what is left for more calls.",
    {"process": _PROCESS},
)
PROCESS_LOOP: Final = Described(
    "ratelimit_process_loop_busy_ratio",
    Kind.GAUGE,
    "CPU that the thread of the process's event loop used in the last 10 s, in cores: 1 is all that it can use.",
    "Saturation: from 0.8 on for long add workers (up to one a core) or servers.",
    {"process": _PROCESS},
)
PROCESS_DELAY: Final = Described(
    "ratelimit_process_loop_delay_seconds",
    Kind.GAUGE,
    "How late the event loop of the process was at most in the last 10 s: every call in it waited as long.",
    "Tens of milliseconds without load: something blocks the process, or the machine has too much to do.",
    {"process": _PROCESS},
)
PROCESS_CALLS: Final = Described(
    "ratelimit_process_calls_in_flight",
    Kind.GAUGE,
    "Calls that the process has in flight, but for those that have taken longer than 0.1 s.",
    "How unevenly connections are spread over workers. Near its bound, calls wait.",
    {"process": _PROCESS},
)
PROCESS_MEMORY: Final = Described(
    "ratelimit_process_resident_bytes",
    Kind.GAUGE,
    "Resident memory of the process, shared pages included. Linux only.",
    "Grows without end, though the number of policies in memory does not: report it.",
    {"process": _PROCESS},
)

# Traces and the access log

SPANS: Final = Described(
    "ratelimit_spans_total",
    Kind.COUNTER,
    "Spans of calls that are traced, by what became of them; `dropped`: there was no room, since they were not sent as "
    "fast as they came.",
    "`failed`: the collector is away, or refuses them; the log says why. `dropped`: so too, or lower "
    "`RATELIMIT_TRACE_SAMPLING`. No call is kept waiting by either.",
    {"result": ("exported", "failed", "dropped")},
)
ACCESS_LINES: Final = Described(
    "ratelimit_access_log_lines_total",
    Kind.COUNTER,
    "Lines of the access log that were written, and that were left out because a process writes 100 a second at most.",
    "Any left out: lower `RATELIMIT_ACCESS_LOG_SAMPLING`, so that the lines are a fair sample.",
    {"result": ("written", "left_out")},
)

SECTIONS: Final[Mapping[str, tuple[Described, ...]]] = {
    "Calls": (CALLS, CALL_SECONDS, OPEN_STREAMS, OUT_OF_BOUNDS, IGNORED_FIELDS),
    "Decisions": (
        *(DECISIONS, DESCRIPTOR_DECISIONS, PLAN_DECISIONS, LIMIT_DENIALS, REMEMBERED_DENIALS, REMEMBERS_DENIALS),
        *(RETURNED_HEARD, RESERVATIONS, OPEN_RESERVATIONS),
        *(CLAMPED_TOKENS, OVERDRAWN_CHARGES, GRANTS, GRANT_UNITS, OPEN_GRANTS, ENFORCEMENT_OFF),
    ),
    "Assignments of Envoy's rate limit quota service": (
        *(QUOTA_STREAMS, QUOTA_BUCKETS, SHORT_SHARES, QUOTA_REPORTS, ASSIGNED_REQUESTS, ASSIGNMENTS),
        *(ASSIGNED_TOKENS, UNANSWERED_BUCKETS),
    ),
    "Overload": (REFUSED_CALLS, TURN_SECONDS, QUEUE_AGE, BOUND),
    "Bucket store": (
        *(STORE_SECONDS, STORE_QUEUE_SECONDS, STORE_CHARGES, STORE_FAILURES, BREAKER_OPEN, STORE_MEMORY),
        *(REFUSED_BUCKETS, STORE_LOSSES, QUOTA_RAISES, HANDED_OVER),
    ),
    "Policies and changes": (
        *(FEED_AGE, REFRESH_AGE, FEED_GAPS, POLICIES, POLICY_MISSES, LOOKUPS_DEFERRED, TOKEN_LOOKUPS_DEFERRED),
        *(UNREADABLE_POLICIES, UNREADABLE_RULES, UNREADABLE_ROWS, UNREADABLE_ROWS_NOW),
    ),
    "Usage": (
        *(USAGE_LAG, USAGE_LEADER, USAGE_BACKLOG_SEGMENTS, USAGE_BACKLOG_BYTES, USAGE_ROWS, USAGE_SEGMENTS),
        *(USAGE_MERGED, USAGE_OTHER, USAGE_FLUSHES, USAGE_FLUSH_SECONDS, USAGE_LOST_CALLS, USAGE_LOSSES),
        *(USAGE_UNREADABLE, USAGE_RAISES, USAGE_STORE_LOST, USAGE_STORE_SQUEEZED, USAGE_TALLY_BYTES, USAGE_LOST),
        USAGE_UNCONFIRMED,
    ),
    "Alerts of the service itself": (
        *(ALERTS_FIRING, ALERT_SUBJECTS_UNREAD, ALERT_DELIVERIES, ALERT_DELIVERIES_PENDING),
    ),
    "Traces and access log": (SPANS, ACCESS_LINES),
    "Server and processes": (
        *(WORKERS, WORKERS_CONFIGURED, STORE_UP, DEGRADED, CERTIFICATE_END, BUILD, PROCESS_START, PROCESS_CPU),
        *(PROCESS_LOOP, PROCESS_DELAY, PROCESS_CALLS, PROCESS_MEMORY),
    ),
}
"""All metrics, in the order in which they are documented."""
