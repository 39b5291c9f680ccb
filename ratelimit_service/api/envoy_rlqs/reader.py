"""From the reports of Envoy's rate limit quota protocol to those of the domain."""

from collections.abc import Mapping
from typing import Final

from ratelimit_service._gen.envoy.service.rate_limit_quota.v3.rlqs_pb2 import BucketId, RateLimitQuotaUsageReports
from ratelimit_service.api.messages import parse
from ratelimit_service.decision.assignments.subscriptions import Usage
from ratelimit_service.decision.descriptors.request import MAX_ENTRIES, MAX_KEY_BYTES
from ratelimit_service.errors import InvalidArgument

MAX_REPORT: Final = 1_000_000
"""Maximum bytes of a report: some 10,000 buckets, of which Envoy sends all in one message. Below what grpc.aio takes,
which cannot be set by method."""


MAX_CALLS: Final = 2**32 - 1
"""Requests of a bucket that one report allows, and denies. A number above it is read as this one."""

MAX_USAGES: Final = 40_000
"""Buckets in a report, perhaps repeated: twice as many as a stream has."""


def read_reports(data: bytes, domain: str) -> RateLimitQuotaUsageReports:
    """The reports in a message on a stream of DOMAIN, "" if this is its first message. Raises InvalidArgument."""
    reports = parse(data, RateLimitQuotaUsageReports)
    own = reports.domain
    if not domain and not own:
        raise InvalidArgument.of("domain", "is empty; send the domain of the rules with the first message")
    if domain and own not in {"", domain}:
        raise InvalidArgument.of("domain", f"is not {domain!r} any more; open another stream for another domain")
    if len(own.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise InvalidArgument.of("domain", f"is too long; at most {MAX_KEY_BYTES} bytes are allowed")
    if len(reports.bucket_quota_usages) > MAX_USAGES:
        raise InvalidArgument.of(
            "bucket_quota_usages", f"has {len(reports.bucket_quota_usages)} entries; at most {MAX_USAGES} are accepted"
        )
    return reports


def read_usage(usage: RateLimitQuotaUsageReports.BucketQuotaUsage) -> Usage:
    """What is reported of one bucket. Its id is in the order of its keys, so that it is the same in each report."""
    return Usage(
        usage.bucket_id.SerializeToString(deterministic=True),
        min(usage.num_requests_allowed, MAX_CALLS),
        min(usage.num_requests_denied, MAX_CALLS),
        usage.time_elapsed.seconds > 0,
    )


def is_answerable(bucket: BucketId) -> bool:
    """Whether Envoy could read an answer: it takes no empty id, and none with a key or value that is not UTF-8.

    Protobuf reads such a value as bytes, and raises UnicodeDecodeError for such a key.
    """
    try:
        return bool(bucket.bucket) and all(isinstance(value, str) for _, value in bucket.bucket.items())
    except UnicodeDecodeError:
        return False


def entries_of(bucket: BucketId) -> Mapping[str, str] | None:
    """The keys and values of a bucket; None if they are beyond the bounds, which are those of a descriptor."""
    entries = dict(bucket.bucket)
    if len(entries) > MAX_ENTRIES or any(not 0 < len(key.encode()) <= MAX_KEY_BYTES for key in entries):
        return None
    return entries
