"""How a pool is shared: equally at first, then by demand, and never more than there is."""

from random import Random

import pytest

from decision.assignments.visits import BURST, SECOND, UNITS, World, holder, new, visit
from ratelimit_service.decision.assignments.shares import (
    ALL,
    NO_SHARE,
    ORPHAN_US,
    QUIET_US,
    TTL_US,
    Bid,
    Kind,
    PoolState,
    Visited,
)
from ratelimit_service.decision.assignments.shares import visit as make

NOW = 1_800_000_000 * SECOND


class Pool:
    """A pool, at a time that the test sets."""

    def __init__(self) -> None:
        self.state: PoolState | None = None
        self.now_us = NOW

    def visit(self, *bids: Bid, **fields: int) -> Visited:
        """Make a visit."""
        self.state, visited = make(self.state, visit(*bids, **fields), self.now_us)
        return visited

    def settle(self, *demands: int) -> list[int]:
        """The units of holders with these demands, after visits of one server with all of them."""
        bids = [Bid(holder(number), Kind.KEPT, demand) for number, demand in enumerate(demands)]
        self.visit(*bids)
        return [share.units for share in self.visit(*bids).shares]


def test_the_first_holder_gets_all_and_the_next_an_equal_share() -> None:
    """Which others give up first: it gets nothing before, and is short; they are asked to."""
    pool = Pool()
    first = pool.visit(new(1))
    assert first == Visited(1, False, [(UNITS, BURST, TTL_US, False)])
    second = pool.visit(new(2))
    assert second.others_due
    assert (second.shares[0].units, second.shares[0].ttl_us, second.shares[0].short) == (0, 0, True)
    (given_up,) = pool.visit(Bid(holder(1), Kind.KEPT, -1, UNITS, BURST)).shares
    assert given_up == (UNITS // 2, BURST // 2, TTL_US, False)
    assert pool.visit(new(2)).shares == [(UNITS // 2, BURST // 2, TTL_US, False)]


def test_what_is_given_up_is_offered_to_others() -> None:
    """Once, when it is: whoever does not come for it is not called again and again."""
    pool = Pool()
    pool.settle(-1, -1)
    assert not pool.visit(Bid(holder(0), Kind.KEPT, 2_000)).others_due
    assert pool.visit(Bid(holder(1), Kind.KEPT, 10)).others_due
    assert not pool.visit(Bid(holder(1), Kind.KEPT, 10)).others_due
    (more,) = pool.visit(Bid(holder(0), Kind.KEPT, 2_000)).shares
    assert more.units > 900


@pytest.mark.parametrize(
    ("demands", "units"),
    [
        ([0, 0], [500, 500]),  # spare: equally
        ([200, 0], [600, 400]),  # 25 each, the demand, and half of what is spare
        ([400, 400, 0], [466, 466, 66]),
        ([1_900, 0], [975, 25]),  # scarce: the probe share, and the rest by demand
        ([2_000, 1_000, 1_000], [491, 254, 254]),
        ([-1, 5_000], [500, 500]),  # not known yet: equally, until it is
    ],
)
def test_shares_by_demand(demands: list[int], units: list[int]) -> None:
    """What is demanded and a part of what is spare; of too little 5 % equally, and the rest by demand."""
    assert Pool().settle(*demands) == units


@pytest.mark.parametrize("keep", [ALL, 500, 1])
def test_each_of_many_keeps_a_unit(keep: int) -> None:
    """Also of a pool that is bounded: with none Envoy denies all, and then begins with a bucket that is full."""
    pool = Pool()
    demands = [5_000] * 5 + [0] * 55
    pool.settle(*demands)
    bids = [Bid(holder(number), Kind.KEPT, demand) for number, demand in enumerate(demands)]
    for _ in range(20):
        units = [share.units for share in pool.visit(*bids, keep=keep if pool.now_us == NOW else ALL).shares]
        assert min(units) >= 1
        assert sum(units) <= UNITS
        pool.now_us += SECOND


def test_small_changes_are_left() -> None:
    """A share is not sent again for what nobody would notice."""
    pool = Pool()
    assert pool.settle(300, 300) == [500, 500]
    shares = pool.visit(Bid(holder(0), Kind.KEPT, 340), Bid(holder(1), Kind.KEPT, 300)).shares
    assert shares == [(500, 50, 0, False)] * 2
    shares = pool.visit(Bid(holder(0), Kind.KEPT, 600), Bid(holder(1), Kind.KEPT, 300)).shares
    assert [share.units for share in shares] == [650, 350]


def test_a_share_that_a_server_does_not_know_is_sent_again() -> None:
    """As it ended at its Envoy, or the answer of the store was lost."""
    pool = Pool()
    pool.visit(new(1))
    assert pool.visit(new(1, 10)).shares == [(UNITS, BURST, TTL_US, False)]
    assert pool.visit(Bid(holder(1), Kind.CARRIED, 10)).shares == [(UNITS, BURST, TTL_US, False)]
    assert pool.visit(Bid(holder(1), Kind.KEPT, 10, UNITS, BURST)).shares == [(UNITS, BURST, 0, False)]


def test_a_pool_that_is_bounded_recovers() -> None:
    """Since others spend of the limit, half is given up at once; it comes back within seconds."""
    pool = Pool()
    pool.visit(new(1))
    bid = Bid(holder(1), Kind.KEPT, 5_000)
    assert pool.visit(bid, keep=500).shares[0].units == 500
    pool.now_us += 2 * SECOND
    assert pool.visit(bid).shares[0].units == 600
    pool.now_us += 9 * SECOND
    assert pool.visit(bid).shares[0].units == UNITS


def test_who_has_left_keeps_its_share_for_a_while() -> None:
    """Its Envoy applies it until it has another stream, which takes it over; nobody else gets it before."""
    pool = Pool()
    pool.visit(new(1))
    left = Bid(holder(1), Kind.LEFT, 0, UNITS, BURST)
    assert pool.visit(left).shares == [NO_SHARE]
    assert pool.visit(new(2)).shares[0].units == 0
    taken_over = pool.visit(Bid(holder(3), Kind.CARRIED, 10))
    assert taken_over.shares == [(500, 50, TTL_US, False)]
    pool.visit(Bid(holder(3), Kind.LEFT, 0, 500, 50))
    pool.now_us += ORPHAN_US
    assert pool.visit(new(2)).shares[0].units == UNITS
    pool.visit(Bid(holder(2), Kind.GONE))
    assert pool.visit(new(4)).shares[0].units == UNITS


def test_who_may_have_a_share_gets_a_whole_one_or_none() -> None:
    """Of an Envoy whose server was killed nobody knows what it has: a part would take away from that."""
    pool = Pool()
    pool.visit(new(1), units=600)  # its server is killed
    carried = Bid(holder(2), Kind.CARRIED, 2_000)
    assert pool.visit(carried).shares == [(0, 0, 0, True)]
    assert pool.visit(Bid(holder(3), Kind.NEW)).shares[0].units == 333
    pool.now_us += TTL_US + 2 * SECOND
    assert pool.visit(carried).shares[0].units == UNITS


def test_a_store_that_has_lost_all_gives_nothing_more_at_first() -> None:
    """Until all have reported what they hold, which they go on to."""
    pool = Pool()
    one, other = Bid(holder(1), Kind.KEPT, 5_000, 400, 30), Bid(holder(2), Kind.KEPT, 5_000, 600, 70)
    assert pool.visit(one).shares == [(400, 30, TTL_US, True)]
    assert pool.visit(new(3)).shares == [(0, 0, 0, True)]
    pool.now_us += QUIET_US - 1
    assert pool.visit(other).shares[0].units < 600
    pool.now_us += 1
    assert pool.visit(one).shares[0].units == 333  # the one that is new gets as much, then
    assert pool.visit(new(3)).shares[0].units == 333


def test_nothing_to_share() -> None:
    """Of a limit that is used up, each holder gets nothing, and learns of it."""
    assert Pool().visit(new(1), units=0, burst=0, least=0).shares == [(0, 0, TTL_US, False)]


@pytest.mark.parametrize("seed", range(20))
def test_never_more_than_there_is(seed: int) -> None:
    """Whoever comes, goes, and changes its demand, on three servers: all together hold no more than the whole."""
    world, state = World(Random(seed)), None
    whole = 0
    for _ in range(300):
        made, holders = world.step()
        before = world.applied()
        state, visited = make(state, made, world.now_us)
        world.take(holders, visited)
        assert world.applied() <= max(UNITS, before)
        whole = max(whole, world.applied())
    assert whole <= UNITS
    assert whole > 0.9 * UNITS


def test_all_is_shared() -> None:
    """But for what rounding takes."""
    random = Random(1)
    for _ in range(100):
        demands = [random.choice((0, 10, 400, 3_000)) for _ in range(random.randrange(1, 9))]
        total = sum(Pool().settle(*demands))
        assert UNITS - len(demands) <= total <= UNITS, demands
