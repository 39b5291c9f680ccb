"""From the reports of Envoy's rate limit quota protocol to those of the domain."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol, cast

from google.protobuf import duration_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ratelimit_service._gen.envoy.service.rate_limit_quota.v3.rlqs_pb2 import BucketId, RateLimitQuotaUsageReports
from ratelimit_service.api.messages import parse
from ratelimit_service.decision.descriptors.request import MAX_ENTRIES, MAX_KEY_BYTES
from ratelimit_service.errors import InvalidArgument

MAX_REPORT: Final = 1_000_000
"""Maximum bytes of a report: some 10,000 buckets, of which Envoy sends all in one message. Below what grpc.aio takes,
which cannot be set by method."""


MAX_CALLS: Final = 2**32 - 1
"""Requests of a bucket that one report allows, and denies. A number above it is read as this one."""

MAX_USAGES: Final = 40_000
"""Buckets in a report, perhaps repeated: twice as many as a stream has."""


class BucketUsage(Protocol):
    """What is reported of one bucket. Its id is as it came: the order of its keys may differ from report to report."""

    bucket_id: bytes
    time_elapsed: duration_pb2.Duration
    num_requests_allowed: int
    num_requests_denied: int


def read_reports(data: bytes, domain: str) -> tuple[str, Sequence[BucketUsage]]:
    """The domain and the buckets in a message on a stream of DOMAIN, "" if this is its first message.

    Raises InvalidArgument.
    """
    reports = cast("_Reports", parse(data, _REPORTS))
    own, usages = reports.domain, reports.bucket_quota_usages
    if not domain and not own:
        raise InvalidArgument.of("domain", "is empty; send the domain of the rules with the first message")
    if domain and own not in {"", domain}:
        raise InvalidArgument.of("domain", f"is not {domain!r} any more; open another stream for another domain")
    if len(own.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise InvalidArgument.of("domain", f"is too long; at most {MAX_KEY_BYTES} bytes are allowed")
    if len(usages) > MAX_USAGES:
        raise InvalidArgument.of("bucket_quota_usages", f"has {len(usages)} entries; at most {MAX_USAGES} are accepted")
    return own, usages


def read_bucket(data: bytes) -> BucketId:
    """The id of a bucket. Raises InvalidArgument."""
    return parse(data, BucketId)


def name_of(bucket: BucketId) -> bytes:
    """Its bytes in the order of its keys, so that they are the same for each report."""
    return bucket.SerializeToString(deterministic=True)


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


class _Reports(Protocol):
    domain: str
    bucket_quota_usages: Sequence[BucketUsage]


def _reports_type() -> type[Message]:
    """Envoy's message, with ids of buckets as bytes: most are known, and to be found by these.

    An object for each id takes more time than all else that is read of a bucket without requests.
    """
    original = RateLimitQuotaUsageReports.DESCRIPTOR
    reports = DescriptorProto()
    original.CopyToProto(reports)
    (usage,) = reports.nested_type
    for each in (reports, usage, *reports.field, *usage.field):
        each.ClearField("options")  # checks, which are defined in files that are not needed here
    bucket_id = next(each for each in usage.field if each.name == "bucket_id")
    bucket_id.type = FieldDescriptorProto.TYPE_BYTES
    bucket_id.ClearField("type_name")
    duration = duration_pb2.DESCRIPTOR
    file = FileDescriptorProto(
        name=original.file.name,
        package=original.file.package,
        syntax="proto3",
        dependency=[duration.name],
        message_type=[reports],
    )
    pool = DescriptorPool()
    pool.AddSerializedFile(duration.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName(original.full_name))


_REPORTS: Final = _reports_type()
