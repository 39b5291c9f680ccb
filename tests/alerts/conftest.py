"""The evaluation of alerts on a real Postgres, with buckets in memory."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from fixtures.control_plane import SECOND, START, ControlPlane
from fixtures.usage import UsageWriter, add_partitions, connect
from ratelimit_service.alerts.alert import Rule
from ratelimit_service.alerts.dispatch import AlertDispatcher
from ratelimit_service.alerts.evaluation import AlertEvaluator, Observed
from ratelimit_service.alerts.ports import Sender, Webhook
from ratelimit_service.alerts.quotas import QuotaWatch
from ratelimit_service.buckets.local import LocalBucketStore
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.postgres.lease import PostgresLease
from ratelimit_service.postgres.policy_source import PostgresPolicySource
from ratelimit_service.postgres.repositories.alert_usage import PostgresAlertUsage
from ratelimit_service.postgres.repositories.alerts import PostgresLeaderTransactions
from ratelimit_service.usage.ports import Term

NOW = datetime.fromtimestamp(START // SECOND, UTC)
SECRET = b"a secret of tests"


@dataclass
class Observer:
    """Keeps what metrics would report."""

    counts: Mapping[Rule, int] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    left_out: int = 0

    def firing(self, counts: Mapping[Rule, int]) -> None:
        self.counts = counts

    def unread(self, subjects: int) -> None:
        self.left_out = subjects

    def attempted(self, outcome: str) -> None:
        self.outcomes[outcome] += 1

    def pending(self, count: int) -> None:
        self.waiting = count


class Alerting:
    """The work of the leader, step by step."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.observer = Observer()
        self.buckets = LocalBucketStore(lambda: 1, plane.clock.now_us)
        self.store_error = ""
        self.lease = PostgresLease(plane.database, "alerts", "me")
        self.transactions = PostgresLeaderTransactions(plane.database, self.lease)
        usage = PostgresAlertUsage(plane.database)
        self.policies = PostgresPolicySource(plane.database)
        self.evaluator = AlertEvaluator(
            self.transactions,
            Observed(usage, QuotaWatch(usage, plane.plans, self.policies, self.buckets, plane.clock), self._ping),
            self.observer,
            plane.clock,
            thresholds=(80, 90, 100),
            webhook=True,
        )

    async def lead(self) -> Term:
        """Acquire the lease."""
        term = await self.lease.acquire()
        assert term is not None
        return term

    def dispatcher(self, sender: Sender) -> AlertDispatcher:
        """Send messages by SENDER, without jitter."""
        webhook = Webhook(sender, SECRET)
        return AlertDispatcher(self.transactions, webhook, self.observer, self.plane.clock, jitter=lambda: 0.0)

    async def _ping(self) -> None:
        if self.store_error:
            raise StoreUnavailable(self.store_error)


@pytest.fixture
def alerting(control_plane: ControlPlane) -> Alerting:
    """The evaluation of alerts."""
    return Alerting(control_plane)


@pytest.fixture
def usage(database_url: str) -> Iterator[UsageWriter]:
    """Writes counts of today and yesterday."""
    with connect(database_url) as connection:
        add_partitions(connection, NOW - timedelta(days=1), 3)
        connection.commit()
        yield UsageWriter(connection)
