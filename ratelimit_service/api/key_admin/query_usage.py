"""QueryUsage, and usage as messages of `ratelimit.v1`."""

from typing import Final

from ratelimit_service._gen.ratelimit.v1 import usage_pb2
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import QueryUsageRequest, QueryUsageResponse
from ratelimit_service.api.authentication import require
from ratelimit_service.api.key_admin.fields import duration_from_proto, time_from_proto, time_to_proto
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.tokens import Caller, Role
from ratelimit_service.usage.query import Loss, UsageQueries, UsageReport, UsageRow
from ratelimit_service.usage.query_range import Level
from ratelimit_service.usage.query_request import Dimension, Measure, UsageFilter, UsageRequest

_DIMENSIONS: Final = {
    QueryUsageRequest.KEY: Dimension.KEY,
    QueryUsageRequest.SUBJECT: Dimension.SUBJECT,
    QueryUsageRequest.PLAN: Dimension.PLAN,
    QueryUsageRequest.RESOURCE: Dimension.RESOURCE,
    QueryUsageRequest.LIMIT: Dimension.LIMIT,
    QueryUsageRequest.DOMAIN: Dimension.DOMAIN,
    QueryUsageRequest.RULE: Dimension.RULE,
}
_MEASURES: Final = {
    QueryUsageRequest.MEASURE_UNSPECIFIED: Measure.CALLS,
    QueryUsageRequest.CALLS: Measure.CALLS,
    QueryUsageRequest.ALLOWED: Measure.ALLOWED,
    QueryUsageRequest.DENIED: Measure.DENIED,
    QueryUsageRequest.COST: Measure.COST,
    QueryUsageRequest.SHADOW_DENIED: Measure.SHADOW_DENIED,
    QueryUsageRequest.DEGRADED: Measure.DEGRADED,
}
_OUTCOMES: Final = {
    usage_pb2.UsageFilter.OUTCOME_UNSPECIFIED: None,
    usage_pb2.UsageFilter.ALLOWED: Measure.ALLOWED,
    usage_pb2.UsageFilter.DENIED: Measure.DENIED,
    usage_pb2.UsageFilter.SHADOW_DENIED: Measure.SHADOW_DENIED,
    usage_pb2.UsageFilter.DEGRADED: Measure.DEGRADED,
}
_LEVELS: Final = {
    Level.MINUTE: QueryUsageResponse.MINUTE,
    Level.HOUR: QueryUsageResponse.HOUR,
    Level.DAY: QueryUsageResponse.DAY,
}
_FIELDS: Final = {dimension: dimension.value for dimension in Dimension} | {Dimension.KEY: "key_id"}
"""The field of a row that has the value of a dimension."""


class QueryUsage:
    """Counts calls."""

    def __init__(self, usage: UsageQueries) -> None:
        self._usage = usage

    async def __call__(self, request: QueryUsageRequest, caller: Caller) -> QueryUsageResponse:
        """Answer a question about usage, if the caller's role allows it. Raises ServiceError."""
        require(caller, Role.VIEWER)
        paging = Paging(request.page_size, request.page_token)
        question = _request_from_proto(request)
        return _report_to_proto(await self._usage.query(question, paging), question.group_by)


def _request_from_proto(message: QueryUsageRequest) -> UsageRequest:
    """The question. Raises InvalidArgument."""
    return UsageRequest(
        where=_filter_from_proto(message.filter),
        group_by=tuple(_dimension(value, f"group_by[{place}]") for place, value in enumerate(message.group_by)),
        start_us=time_from_proto(message.start_time, "start_time") if message.HasField("start_time") else None,
        end_us=time_from_proto(message.end_time, "end_time") if message.HasField("end_time") else None,
        step_us=duration_from_proto(message.step, "step"),
        top=message.top,
        order_by=_measure(message.order_by),
        others=message.include_others,
    )


def _filter_from_proto(message: usage_pb2.UsageFilter) -> UsageFilter:
    lists = {
        Dimension.KEY: message.key_ids,
        Dimension.SUBJECT: message.subjects,
        Dimension.PLAN: message.plans,
        Dimension.RESOURCE: message.resources,
        Dimension.LIMIT: message.limits,
        Dimension.DOMAIN: message.domains,
        Dimension.RULE: message.rules,
    }
    if message.outcome not in _OUTCOMES:
        raise InvalidArgument.of("filter.outcome", f"is {message.outcome}, which is no outcome")
    values = {dimension: tuple(values) for dimension, values in lists.items() if values}
    return UsageFilter(values, _OUTCOMES[message.outcome])


def _dimension(value: int, field: str) -> Dimension:
    for known, dimension in _DIMENSIONS.items():
        if value == known:
            return dimension
    raise InvalidArgument.of(field, f"is {value}; use KEY, SUBJECT, PLAN, RESOURCE, LIMIT, DOMAIN or RULE")


def _measure(value: int) -> Measure:
    for known, measure in _MEASURES.items():
        if value == known:
            return measure
    raise InvalidArgument.of("order_by", f"is {value}, which is no measure")


def _report_to_proto(report: UsageReport, group_by: tuple[Dimension, ...]) -> QueryUsageResponse:
    within = report.range
    total = UsageRow(within.start_us, (), report.total)
    return QueryUsageResponse(
        rows=[_row_to_proto(row, group_by) for row in report.rows],
        total=_row_to_proto(total, ()),
        group_count=report.groups,
        start_time=time_to_proto(within.start_us),
        end_time=time_to_proto(within.end_us),
        level=_LEVELS[within.level],
        complete_until=time_to_proto(report.complete_until_us),
        losses=[_loss_to_proto(loss) for loss in report.losses],
        next_page_token=report.next_page_token,
    )


def _row_to_proto(row: UsageRow, group_by: tuple[Dimension, ...]) -> usage_pb2.UsageRow:
    counts = row.counts
    values = {_FIELDS[dimension]: value for dimension, value in zip(group_by, row.group, strict=False)}
    return usage_pb2.UsageRow(  # the others have no values
        start_time=time_to_proto(row.start_us),
        others=row.others,
        allowed=counts.allowed,
        denied=counts.denied,
        cost=counts.cost,
        shadow_denied=counts.shadow_denied,
        degraded=counts.degraded,
        clamped=counts.clamped,
        reserved=counts.reserved,
        settled=counts.settled,
        **values,
    )


def _loss_to_proto(loss: Loss) -> usage_pb2.UsageLoss:
    return usage_pb2.UsageLoss(
        start_time=time_to_proto(loss.start_us),
        end_time=time_to_proto(loss.end_us),
        cause=loss.cause,
        calls=loss.calls,
    )
