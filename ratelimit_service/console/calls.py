"""The calls of a key, a subject or a plan over time, as a chart."""

from ratelimit_service.console.charts import Bin, Series, Span
from ratelimit_service.console.visit import Section, Visit
from ratelimit_service.usage.query import Counts
from ratelimit_service.usage.query_request import Dimension, UsageFilter, UsageRequest


async def calls_of(visit: Visit, dimension: Dimension, name: str, span: Span) -> Section[Series]:
    """Read the counts of SPAN, of its whole bins that all counts have arrived for."""
    return await visit.section(_read(visit, dimension, name, span))


async def _read(visit: Visit, dimension: Dimension, name: str, span: Span) -> Series:
    step_us = span.step_us
    start_us = visit.now_us - span.length_us - step_us
    request = UsageRequest(UsageFilter({dimension: (name,)}), start_us=start_us, step_us=step_us)
    report = await visit.services.usage.query(request)
    counts = {row.start_us: row.counts for row in report.rows}
    end_us = min(report.complete_until_us or visit.now_us, visit.now_us) // step_us * step_us
    starts = range(end_us - span.length_us, end_us, step_us)
    return Series([Bin(start, start + step_us, counts.get(start, Counts())) for start in starts], step_us)
