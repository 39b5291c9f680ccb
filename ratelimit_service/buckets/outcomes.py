"""The outcome of each charge of a call of which parts may fail."""

from collections.abc import Sequence
from typing import TypeAlias

from ratelimit_service.decision.charge import ChargeResult
from ratelimit_service.decision.ports import PartlyUnavailable, StoreUnavailable

Outcome: TypeAlias = ChargeResult | StoreUnavailable
"""The result of a charge, or why there is none."""


def outcomes_of(returned: Sequence[ChargeResult] | BaseException, count: int) -> Sequence[Outcome]:
    """The outcomes of COUNT charges that were made together. Raises what is no failure of a store."""
    if isinstance(returned, PartlyUnavailable):
        return returned.results
    if isinstance(returned, StoreUnavailable):
        return (returned,) * count
    if isinstance(returned, BaseException):
        raise returned
    return returned


def results_of(outcomes: Sequence[Outcome]) -> list[ChargeResult]:
    """The results of a call's charges. Raises StoreUnavailable if all failed alike, PartlyUnavailable if some did."""
    results = [outcome for outcome in outcomes if isinstance(outcome, ChargeResult)]
    errors = [outcome for outcome in outcomes if isinstance(outcome, StoreUnavailable)]
    if not errors:
        return results
    if not results and len({error.sent for error in errors}) == 1:
        raise errors[0]
    raise PartlyUnavailable(str(errors[0]), outcomes)
