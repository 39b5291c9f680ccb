"""The count of grants that are open."""

from ratelimit_service.decision.charge import GONE, Charge, ChargeResult, Grant, Granted, Return, Returned
from ratelimit_service.metrics.grants import GrantCounts

NAME = b"0" * 16


class Servers:
    """Two servers, and a clock."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.first, self.second = GrantCounts(lambda: self.now), GrantCounts(lambda: self.now)

    @property
    def open(self) -> int:
        return self.first.open + self.second.open


def made(counts: GrantCounts, left_us: int, taken: int = 5) -> None:
    """Have a grant be made, or found."""
    charge = Charge((), (), reservation=Grant(NAME, left_us, 5, 1, 7))
    counts.count(charge, ChargeResult(charged=True, limit_results=(), hold=Granted(taken, 5, left_us)))


def returned(counts: GrantCounts, left_us: int, *, again: bool = False, held_us: int = 0) -> None:
    """Have one be returned."""
    hold = Returned(0, (), again, left_us)
    charge = Charge((), (), reservation=Return(NAME, 0))
    counts.count(charge, ChargeResult(charged=True, limit_results=(), held_us=held_us, hold=hold))


def test_a_grant_is_open_until_it_ends_or_is_returned_to_any_server() -> None:
    """Once, whatever is repeated; one that has ended is neither, although it is returned."""
    servers = Servers()
    made(servers.first, 1_000_000)
    made(servers.first, 900_000, taken=0)
    made(servers.first, 100_000)
    assert servers.open == 2
    servers.now += 0.2
    assert servers.open == 1
    returned(servers.second, 0)
    returned(servers.second, 0, held_us=GONE)
    returned(servers.second, 800_000)
    returned(servers.second, 0, again=True)
    assert (servers.first.open, servers.second.open) == (1, -1)
    servers.now += 1
    assert (servers.first.open, servers.second.open) == (0, 0)
