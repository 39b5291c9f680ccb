"""What this process knows of one set of limits that is shared: its holders here, and what they have spent."""

from collections.abc import Sequence
from typing import NamedTuple

from ratelimit_service.decision.assignments.debt import Debt
from ratelimit_service.decision.assignments.shares import ALL, Bid, Kind, Visit, Visited
from ratelimit_service.decision.assignments.subscriptions import Subscription
from ratelimit_service.decision.assignments.terms import INTERVALS, Strategy, Terms


class OwnVisit(NamedTuple):
    """A visit, and whose each of its bids is: None for those of buckets that are not reported any more."""

    visit: Visit
    subscriptions: Sequence[Subscription | None]


class Pool:
    """A set of limits of which Envoys here have buckets: perhaps several buckets, as of values that share a limit.

    `debts` are those to its limits, in their order. `keep` is what may be given out on, as in Visit. `holders`: those
    of all servers, as last known. `leaving` are bids of buckets that this process has no more.
    """

    __slots__ = ("debts", "holders", "keep", "leaving", "name", "partition", "subscriptions", "terms")

    def __init__(self, terms: Terms, now: float) -> None:
        self.name = name_of(terms)
        self.partition = terms.buckets[0].partition
        self.terms = terms
        self.debts = [Debt(bucket, now) for bucket in terms.buckets]
        self.subscriptions: dict[bytes, Subscription] = {}
        self.leaving: list[Bid] = []
        self.keep = ALL
        self.holders = 1

    @property
    def is_shared(self) -> bool:
        """Whether its Envoys get shares, and not all the same."""
        return self.terms.strategy is Strategy.TOKEN_BUCKET

    @property
    def is_unused(self) -> bool:
        """Whether there is nothing left to do for it."""
        return not (self.subscriptions or self.leaving or any(debt.owed for debt in self.debts))

    def renew(self, terms: Terms, now: float) -> None:
        """Have its limits be those of newer rules. What is owed to those that are left stays owed."""
        before = {debt.bucket.name: debt for debt in self.debts}
        self.terms = terms
        self.debts = [Debt(bucket, now) for bucket in terms.buckets]
        for debt in self.debts:
            if debt.bucket.name in before:
                debt.spend(before[debt.bucket.name].owed, now)

    def leave(self, subscription: Subscription, kind: Kind, now: float) -> None:
        """Have one bucket less. KIND is LEFT if its Envoy may still apply its share, else GONE."""
        if self.subscriptions.pop(subscription.holder, None) is not None and self.is_shared:
            self.leaving.append(subscription.bid(now, kind))

    def visit(self, now: float) -> OwnVisit:
        """What the store gets now. The totals follow from what was `seen` of limits that have to be examined."""
        units, burst, least = self.terms.totals([debt.seen for debt in self.debts])
        own = list(self.subscriptions.values())
        bids = [*self.leaving, *(each.bid(now) for each in own)]
        visit = Visit(self.name, self.partition, units, burst, least, bids, self.keep)
        return OwnVisit(visit, [*(None for _ in self.leaving), *own])

    def visited(self, own: OwnVisit, result: Visited) -> None:
        """Note that a visit was made."""
        self.holders = result.holders
        if self.leaving:
            gone = {bid.holder for bid, each in zip(own.visit.bids, own.subscriptions, strict=True) if each is None}
            self.leaving = [bid for bid in self.leaving if bid.holder not in gone]
        if own.visit.keep == self.keep:
            self.keep = ALL


def name_of(terms: Terms) -> str:
    """The name of the pool of these limits. Units of another interval are others: they are counted elsewhere."""
    return f"{terms.buckets[0].name}{INTERVALS.index(terms.interval)}"
