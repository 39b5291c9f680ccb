"""What a change that has to be confirmed would have meant for the calls of the last day, in a sentence or two."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from ratelimit_service.errors import ServiceError
from ratelimit_service.management.confirmation import Affected, ConfirmationRequired
from ratelimit_service.usage.query import UsageQueries
from ratelimit_service.usage.query_request import Dimension, UsageFilter, UsageRequest
from ratelimit_service.usage.simulation import SimulationRequest, SimulationService

PREVIEW_SECONDS: Final = 3.0
"""For which whoever makes the change waits. Then it is confirmed, or not, without knowing."""


class ChangePreviews:
    """Adds to refusals of changes that have to be confirmed what usage knows of these."""

    def __init__(
        self, simulations: SimulationService, usage: UsageQueries, *, seconds: float = PREVIEW_SECONDS
    ) -> None:
        self._simulations = simulations
        self._usage = usage
        self._seconds = seconds

    @asynccontextmanager
    async def added(self) -> AsyncIterator[None]:
        """Add it to the ConfirmationRequired that the block raises."""
        try:
            yield
        except ConfirmationRequired as error:
            error.add_usage(await self.words(error.affected))
            raise

    async def words(self, affected: Affected) -> str:
        """What was counted of these calls, and what would have been denied of them. Raises nothing."""
        try:
            async with asyncio.timeout(self._seconds):
                return await (self._simulated(affected) if affected.plan else self._counted(affected))
        except TimeoutError:
            return f"What it would refuse is not known: counting takes longer than {self._seconds:g} s."
        except ServiceError as error:
            return f"What it would refuse is not known: {error.message}."

    async def _simulated(self, affected: Affected) -> str:
        found = await self._simulations.simulate(SimulationRequest(affected.plan, affected.limits, top=1))
        effect = found.effect
        if not effect.calls:
            return "No call of its keys was counted in the last 24 h."
        would = f"{effect.best:,}" if effect.best == effect.worst else f"{effect.best:,} to {effect.worst:,}"
        part = "" if found.complete else " Only a part of its keys was replayed."
        return (
            f"Of {effect.calls:,} calls in the last 24 h, {effect.denied:,} were denied; {would} would have been, of "
            f"{found.first_time:,} to {found.perhaps_first_time:,} keys for the first time.{part}"
        )

    async def _counted(self, affected: Affected) -> str:
        values = {
            Dimension.KEY: affected.key_id,
            Dimension.SUBJECT: affected.subject,
            Dimension.DOMAIN: affected.domain,
        }
        wanted = {dimension: (value,) for dimension, value in values.items() if value}
        found = await self._usage.query(UsageRequest(UsageFilter(wanted), tuple(wanted)))
        calls = sum(row.counts.calls for row in found.rows)
        denied = sum(row.counts.denied for row in found.rows)
        if not calls:
            return "No call of it was counted in the last day."
        return (
            f"Of {calls:,} calls that were counted in the last day, {denied:,} were denied. What would be is not known."
        )
