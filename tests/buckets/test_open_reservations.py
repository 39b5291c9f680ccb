"""How many reservations are open, as several servers count it from the replies that each gets."""

import random
from typing import Final

from ratelimit_service.buckets.reference import Held, ReferenceBuckets
from ratelimit_service.decision.charge import Bucket, Charge, Extend, Reserve, Settle
from ratelimit_service.decision.limit import MICRO, Concurrency, Limit, Quota, Window
from ratelimit_service.metrics.reservations import ReservationCounts

BEGIN: Final = 1_800_000_000
STEPS: Final = 6_000


class Fleet:
    """Three servers that share a store, and count what it replies to them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now_us = BEGIN * MICRO
        self.kept: dict[bytes, Held] = {}
        self.servers = [ReservationCounts(lambda: self.now_us / MICRO) for _ in range(3)]
        self._store = ReferenceBuckets(reservations=self.kept)
        self._bucket = Bucket("tokens", 0, Limit("tokens", Quota(10**9, Window.YEAR), overdraft=0))
        self._slots = Bucket("slots", 0, Limit("slots", Concurrency(20, MICRO)))

    def step(self) -> None:
        """One call to one of the servers."""
        names = list(self.kept)
        kind = self.chance.random()
        if not names or kind < 0.5:
            name = self.chance.choice(names) if names and kind < 0.05 else b""
            held = self.kept.get(name)
            if held is None or (held.settled is None and held.ends <= self.now_us):
                name = self.chance.randbytes(16)
            own: Reserve | Settle | Extend = Reserve(name, self.chance.randint(MICRO, 60 * MICRO))
            self._charge((1, 1), own)
        elif kind < 0.6:
            self._charge((0, 0), Extend(self.chance.choice(names), (1, 1), self.chance.randint(MICRO, 90 * MICRO)))
        else:
            self._charge((self.chance.choice((-1, 0, 3)), -1), Settle(self.chance.choice(names[-40:]), (1, 1)))

    def _charge(self, costs: tuple[int, int], own: Reserve | Settle | Extend) -> None:
        charge = Charge((self._bucket, self._slots), costs, reservation=own)
        self.chance.choice(self.servers).observe([charge], self._store.charge([charge], self.now_us))

    def total(self, event: str) -> int:
        """What all servers have counted of it."""
        return sum(server.events[event] for server in self.servers)


def test_what_servers_count_adds_up_to_what_the_store_has() -> None:
    """At the end of every second the sum is what is open; what was made and not settled is open, or its hold ended."""
    fleet, ended = Fleet(1), False
    for step in range(STEPS):
        fleet.step()
        fleet.now_us += fleet.chance.randrange(200_000)
        if step % 10 == 0:
            fleet.now_us = -(-fleet.now_us // MICRO) * MICRO
            still_open = [held for held in fleet.kept.values() if held.settled is None and held.ends > fleet.now_us]
            counted = sum(server.open for server in fleet.servers)
            assert counted == len(still_open)
            over = sum(held.settled is None for held in fleet.kept.values()) - counted
            assert fleet.total("made") - fleet.total("settled") - counted == over
            ended = ended or over > 0
    assert ended
    assert all(fleet.total(event) for event in ("repeated", "extended", "gone"))
    assert any(server.open < 0 for server in fleet.servers) or len({server.open for server in fleet.servers}) > 1
    fleet.now_us += 3_600 * MICRO
    assert [server.open for server in fleet.servers] == [0, 0, 0]
