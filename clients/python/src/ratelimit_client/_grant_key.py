"""One key of which a client in mode `granted` holds units: its calls, and what is to be reported and returned."""

from collections.abc import Callable
from itertools import count
from typing import Final, NamedTuple, TypeAlias

from ._gen.ratelimit.v1.rate_limit_service_pb2 import GrantRequest, GrantReturn, GrantSpent
from ._request import MAX_COST, new_request_id
from ._units import Denial, Pool
from .decision import Decision
from .error import RateLimitError

MAX_LINES_OF_KEY: Final = 128
"""Resources of one key that a request reports, so that it is no larger than the service takes."""
MAX_POOLS: Final = 16
"""Costs and prefixes of one key."""
_MAX_RETURNS: Final = 64
_MAX_KEPT: Final = 2 * _MAX_RETURNS
"""Of those that are to be returned, the last ones: while the service does not answer, each request may be a grant."""


class Call(NamedTuple):
    """A call that units may be good for. One with a `key_id` is by that, whatever its `api_key`."""

    api_key: str
    key_id: str
    resource: str
    cost: int


Result: TypeAlias = Decision | RateLimitError | None
"""What becomes of a call: None if it has to be checked by itself."""


class Waiter:
    """A call that waits for units. RESOLVE is called with what becomes of it."""

    __slots__ = ("began", "line", "resolve", "sent")

    def __init__(self, line: "Line", resolve: Callable[[Result], None]) -> None:
        self.line = line
        self.resolve = resolve
        self.began = 0
        """When it began to wait."""
        self.sent: Asked | None = None
        """The last request that was made while it waited: the one that fails it."""


class Line:
    """The same CALL again and again, which units of POOL are good for."""

    __slots__ = ("_denied", "_reads", "_seen", "call", "key", "pool", "tick")

    def __init__(self, key: "Key", call: Call, pool: Pool) -> None:
        self.key = key
        self.call = call
        self.pool = pool
        self.tick = count().__next__
        """Counts one call that was allowed. In C, so that no thread's call is lost."""
        self._reads = 0  # calls of `tick` that count nothing
        self._seen = 0
        self._denied: dict[str, int] = {}

    def deny(self, limit: str) -> None:
        """Count one call that LIMIT has denied, empty if none did."""
        self._denied[limit] = self._denied.get(limit, 0) + 1

    def take(self) -> list[GrantSpent]:
        """What was decided since the last time."""
        allowed = self.tick() - self._reads - self._seen
        self._reads += 1
        self._seen += allowed
        taken = []
        resource, cost = self.call.resource, self.call.cost
        most = MAX_COST // cost
        while allowed:
            calls = min(allowed, most)
            taken.append(GrantSpent(resource=resource, allowed=calls, cost=calls * cost))
            allowed -= calls
        if self._denied:
            denied, self._denied = self._denied, {}
            taken += [GrantSpent(resource=resource, denied=calls, limit=limit) for limit, calls in denied.items()]
        return taken


class Return:
    """A grant that is returned until the service has done it. It ended AT a time."""

    __slots__ = ("at", "message", "sent")

    def __init__(self, grant_id: str, unused: int, at: int) -> None:
        self.message = GrantReturn(grant_id=grant_id, unused=unused)
        self.at = at
        self.sent = False
        """Whether it was sent before: then it stays as it is."""

    @property
    def says_nothing(self) -> bool:
        """Whether nothing is lost without it."""
        return not self.sent and not self.message.unused and not self.message.spent


class Asked:
    """A request that was made at a time, from which on no unit that it returns is spent."""

    __slots__ = ("at", "key", "message", "pool", "returns")

    def __init__(self, key: "Key", pool: Pool | None, message: GrantRequest, returns: list[Return], at: int) -> None:
        self.key = key
        self.pool = pool
        """The one that units are asked for. None: it only returns some."""
        self.message = message
        self.returns = returns
        self.at = at


class Key:
    """A key, by API_KEY, or by KEY_ID if there is one, that was called at a time for the first time."""

    __slots__ = (
        "_called",
        "_spent",
        "_units",
        "api_key",
        "denial",
        "due",
        "key_id",
        "lines",
        "pools",
        "request",
        "rests_until",
        "retired",
        "returns",
        "sent_id",
        "silent",
        "waiters",
    )

    def __init__(self, api_key: str, key_id: str, now: int) -> None:
        self.api_key = api_key
        self.sent_id = key_id
        """The id by which it is called."""
        self.key_id = ""
        """Its id as the service says. Empty until it is known."""
        self.pools: list[Pool] = []
        self.lines: list[Line] = []
        self.retired: list[Line] = []
        """Those that were forgotten, but whose last call a thread may just be counting."""
        self.waiters: list[Waiter] = []
        """Those first that came first."""
        self.request: Asked | None = None
        """The one that is in flight."""
        self.returns: list[Return] = []
        self.denial: Denial | None = None
        """That of all calls of the key."""
        self.due = 0
        """When it is checked next."""
        self.silent = now
        """Since when the service was not sent anything."""
        self.rests_until = 0
        """Until when nothing is returned alone, since that has failed."""
        self._spent: list[GrantSpent] = []
        self._called, self._units = now, 0

    @property
    def identity(self) -> tuple[str, str]:
        """Under which it is found."""
        return self.api_key, self.sent_id

    @property
    def is_empty(self) -> bool:
        """Whether no grant is held."""
        return all(pool.is_empty for pool in self.pools)

    def quiet(self, now: int) -> int:
        """For how long no call of it came, until now or until the one that `called` is called for."""
        units = sum(pool.spent for pool in self.pools)
        if units != self._units:
            self._called, self._units = now, units
        return now - self._called

    def called(self, now: int) -> None:
        """Count a call that took no unit."""
        self._called = now

    def pool_for(self, resource: str, cost: int, now: int) -> Pool | None:
        """The units for such calls. None if there are too many kinds already."""
        for pool in self.pools:
            if pool.cost == cost and pool.covers(resource):
                return pool
        if len(self.pools) >= MAX_POOLS:
            return None
        pool = Pool(resource, cost, now)
        self.pools.append(pool)
        return pool

    def drop(self, pool: Pool) -> None:
        """Remove a pool that has no units."""
        self.pools.remove(pool)
        self._units -= pool.spent

    def take_reports(self) -> None:
        """Count what was decided so far."""
        for line in self.retired:
            self._spent += line.take()
        self.retired.clear()
        for line in self.lines:
            self._spent += line.take()

    @property
    def has_reports(self) -> bool:
        """Whether something was counted that is not reported yet."""
        return bool(self._spent)

    def has_returns(self, oldest: int) -> bool:
        """Whether something would be lost if those that ended after OLDEST were not returned."""
        return any(each.at > oldest and not each.says_nothing for each in self.returns)

    def _attach_reports(self, now: int) -> None:
        """Report with a grant that has ended, or else with an id of none, which the service does not know."""
        room = max(MAX_LINES_OF_KEY - sum(len(each.message.spent) for each in self.returns), 0)
        carrier = next((each for each in self.returns if not each.sent), None)
        if carrier is None:
            carrier = Return(new_request_id(), 0, now)
            self.returns.append(carrier)
        carrier.message.spent.extend(self._spent[:room])
        del self._spent[:room]

    def ask(self, pool: Pool | None, wants: int, now: int, oldest: int) -> Asked:
        """The next request, for so many units of POOL, with all that can be returned and ended after OLDEST."""
        self.take_reports()
        self.returns = [each for each in self.returns[-_MAX_KEPT:] if each.at > oldest]
        if self._spent:
            self._attach_reports(now)
        self.returns = [each for each in self.returns if not each.says_nothing]
        sent, self.returns = self.returns[:_MAX_RETURNS], self.returns[_MAX_RETURNS:]
        message = GrantRequest(returns=[each.message for each in sent])
        if self.sent_id:
            message.key_id = self.sent_id
        else:
            message.api_key = self.api_key
        if pool is not None:
            message.grant_id, message.wants = new_request_id(), wants
            message.resource, message.cost = pool.resource, pool.cost
        for each in sent:
            each.sent = True
        self.silent = now
        self.request = Asked(self, pool, message, sent, now)
        return self.request
