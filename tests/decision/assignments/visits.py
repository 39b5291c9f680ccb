"""Servers that visit one pool in random ways, and what its holders hold meanwhile."""

from dataclasses import dataclass, field
from random import Random

from ratelimit_service.decision.assignments.shares import ALL, TTL_US, UNKNOWN, Bid, Kind, Share, Visit, Visited

NAME, PARTITION = "0123456789abcdef01234567", 7
UNITS, BURST = 1_000, 100
SECOND = 1_000_000


def visit(*bids: Bid, units: int = UNITS, burst: int = BURST, least: int = 1, keep: int = ALL) -> Visit:
    """A visit of the pool."""
    return Visit(NAME, PARTITION, units, burst, least, bids, keep)


def holder(number: int) -> bytes:
    """The name of a holder."""
    return number.to_bytes(8)


def new(number: int, demand: int = UNKNOWN) -> Bid:
    """The bid of a holder that has nothing yet."""
    return Bid(holder(number), Kind.NEW, demand)


@dataclass
class Holder:
    """One that a server knows of, and what it applies: UNITS and BURST until a time."""

    name: bytes
    server: int
    kind: Kind = Kind.NEW
    demand: int = UNKNOWN
    units: int = 0
    burst: int = 0
    until_us: int = 0

    def bid(self, kind: Kind | None = None, renew_us: int = 0) -> Bid:
        """What its server says of it."""
        known = self.kind is Kind.KEPT
        units, burst = (self.units, self.burst) if known else (0, 0)
        return Bid(self.name, kind or self.kind, self.demand, units, burst, renew_us if known else 0)

    def take(self, share: Share, now_us: int) -> None:
        """Apply a share."""
        if share.ttl_us:
            self.kind = Kind.KEPT
            self.units, self.burst, self.until_us = share.units, share.burst, now_us + share.ttl_us


@dataclass
class World:
    """Servers whose holders come, change their demand, and go. Those that went may apply what they have."""

    random: Random
    now_us: int = 1_800_000_000 * SECOND
    holders: list[Holder] = field(default_factory=list)
    gone: list[Holder] = field(default_factory=list)
    names: int = 0

    def applied(self) -> int:
        """The units that all together apply now."""
        return sum(each.units for each in (*self.holders, *self.gone) if each.until_us > self.now_us)

    def step(self) -> tuple[Visit, list[Holder]]:
        """Let something happen, and return a visit that follows from it, and the holders of its bids."""
        random = self.random
        self.now_us += random.choice((1, 50_000, SECOND, SECOND, 5 * SECOND, TTL_US))
        server = random.randrange(3)
        bids: list[tuple[Holder, Bid]] = []
        what = random.random()
        if what < 0.3 and len(self.holders) < 8:
            self.names += 1
            one = Holder(holder(self.names), server)
            if self.gone and random.random() < 0.7:  # it has another stream, and applies what it had
                before = self.gone.pop()
                if before.until_us > self.now_us:
                    one.kind = Kind.CARRIED
                    one.units, one.burst, one.until_us = before.units, before.burst, before.until_us
            self.holders.append(one)
        own = [each for each in self.holders if each.server == server]
        for each in own:
            if each.until_us <= self.now_us:  # its server gave it up, as its Envoy did
                each.units = each.burst = 0
                each.kind = Kind.NEW
            if random.random() < 0.5:
                each.demand = random.choice((UNKNOWN, 0, 0, 10, 300, 1_000, 5_000))
        if own and 0.3 <= what < 0.4:
            left = random.choice(own)
            own.remove(left)
            self.holders.remove(left)
            kind = random.choice((Kind.LEFT, Kind.GONE))
            if kind is Kind.LEFT:
                left.until_us = min(left.until_us, self.now_us + 5 * SECOND)
                self.gone.append(left)
            bids.append((left, left.bid(kind)))
        renew_us = random.choice((0, 0, 30 * SECOND))
        bids += [(each, each.bid(renew_us=renew_us)) for each in own]
        random.shuffle(bids)
        keep = random.choice((ALL,) * 9 + (500,))
        return visit(*(bid for _, bid in bids), keep=keep), [each for each, _ in bids]

    def take(self, holders: list[Holder], visited: Visited) -> None:
        """Have the holders apply what the visit returned."""
        for each, share in zip(holders, visited.shares, strict=True):
            if each in self.holders:
                each.take(share, self.now_us)
