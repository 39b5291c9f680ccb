"""What a client in mode `granted` holds, asks for and returns: all but sending and waiting.

The rules are in the contract of all clients (clients/conformance/README.md). Times are nanoseconds of its clock.
"""

import heapq
import re
import threading
from collections import deque
from collections.abc import Callable, Collection
from datetime import timedelta
from itertools import count, islice
from typing import Final, Literal, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from ._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse, GrantResponse
from ._grant_key import MAX_LINES_OF_KEY, Asked, Call, Key, Line, Result, Return, Waiter
from ._request import MAX_COST
from ._units import MS, Denial, Ended, Held, Pool
from .decision import Decision, Origin
from .error import RateLimitError, client_is_closed, is_failure
from .grants import Grants

MAX_KEYS: Final = 20_000
"""Keys of which a client holds units, or knows a denial, in some 3 KiB each. Those beyond are checked one by one."""
MAX_LINES: Final = 100_000
"""Resources of all keys together, in some 600 bytes each."""

SECOND: Final = 1_000 * MS
_QUIET: Final = SECOND
"""A key that was not called for so long is checked: units would be over before its next call."""
_FORGET: Final = 10 * SECOND
_REPORT: Final = 5 * SECOND
"""In which a report is sent that has to be sent alone."""
_TOO_OLD: Final = 25 * SECOND
"""After which nothing is returned: the service knows for 30 s what it has counted."""
_BACKWARD: Final = 10 * SECOND
"""For which calls are checked one by one that units cannot be asked for."""
_SWEPT: Final = 64
_MARGIN: Final = 2 * MS
_SHARE: Final = 4
"""The part of what a limit has left that one grant has at most."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_MAX_RESOURCE: Final = 256
_MAX_TEXT: Final = 1024

_OF_THE_KEY = frozenset(
    {
        CheckLimitResponse.KEY_UNKNOWN,
        CheckLimitResponse.KEY_REVOKED,
        CheckLimitResponse.KEY_SUSPENDED,
        CheckLimitResponse.KEY_EXPIRED,
    }
)
"""Reasons of a denial of all calls of a key."""

W = TypeVar("W", bound=Waiter)


class GrantBook:
    """The grants of one client. Each method takes the lock; units are taken without it, as `Held` says.

    PACED: whether a client that gets less than it wants waits before it asks again. MAX_DENIAL: nanoseconds for which
    calls are denied at most before the service is asked again.
    """

    def __init__(self, max_denial: int, *, paced: bool) -> None:
        self._paced = paced
        self._max_denial = max_denial
        self.outbox: deque[Asked] = deque()
        """What is to be sent, in this order, by whoever has called a method."""
        self.lines: dict[tuple[str, str, str, int], Line] = {}
        """By what a `Call` has."""
        self.reset()

    def reset(self) -> None:
        """Forget everything, and return nothing: in a process that was forked, all of it is its parent's."""
        self._lock = threading.Lock()
        self.outbox.clear()
        self.lines.clear()
        self._keys: dict[tuple[str, str], Key] = {}
        self._by_id: dict[str, set[Key]] = {}
        self._all_checked_until = 0
        self._closed = False
        self._due: list[tuple[int, int, Key]] = []
        self._number = count()
        self._round_trip = MS
        self._requests = self._waited = self._served = self._denied = 0
        self._granted = self._unused = self._returned = self._expired = 0

    @property
    def grants(self) -> Grants:
        """The numbers so far."""
        with self._lock:
            held = sum(pool.left for key in self._keys.values() for pool in key.pools)
            return Grants(
                allowed=self._granted - self._unused - held - self._served,
                denied=self._denied,
                waited=self._waited,
                requests=self._requests,
                granted=self._granted,
                returned=self._returned,
                expired=self._expired,
                held=held,
            )

    def decide(self, call: Call, now: int, wait: Callable[[Line], W]) -> Decision | W | None:
        """The decision on a call; None if it has to be checked by itself; or what WAIT makes to wait for it."""
        with self._lock:
            line = self._line(call, now)
            result = line is not None and self._decided(line, now, Origin.CACHE)
            if line is None or result is False:
                self._waited += 1
                return None
            if isinstance(result, Decision):
                self._denied += not result.allowed
                if line.pool.wants_more and line.key.request is None:
                    self._ask(line.key, line.pool, now)
                return result
            self._waited += 1
            waiter = wait(line)
            waiter.began = now
            line.key.waiters.append(waiter)
            if line.key.request is None:
                self._ask(line.key, line.pool, now)
            return waiter

    def abandon(self, waiter: Waiter) -> bool:
        """Have a call wait no more. False: it is resolved already."""
        with self._lock:
            waiters = waiter.line.key.waiters
            if waiter not in waiters:
                return False
            waiters.remove(waiter)
            return True

    def end_wait(self, waiter: Waiter) -> None:
        """Resolve a call that has waited for the client's deadline, unless it is resolved already.

        It is denied if the service had fewer units than were wanted meanwhile: a call that fails may be allowed, beyond
        the limit. Otherwise it fails.
        """
        with self._lock:
            line = waiter.line
            if waiter not in line.key.waiters:
                return
            line.key.waiters.remove(waiter)
            short = line.pool.short
            if short is not None and short.at >= waiter.began:
                waiter.resolve(_denied(line, short, short.at, Origin.SERVICE))
            else:
                message = "no units were granted within the deadline"
                waiter.resolve(RateLimitError(grpc.StatusCode.DEADLINE_EXCEEDED, message))

    def answered(self, asked: Asked, response: GrantResponse, now: int) -> None:
        """Take what was granted, and decide the calls that wait."""
        with self._lock:
            key = asked.key
            if key.request is not asked:
                return
            key.request = None
            if not response.returns_made:
                self._return_later(asked, now)
            if asked.pool is not None:
                self._round_trip += (now - asked.at - self._round_trip) // 8
                self._take_over(asked, asked.pool, response, now)
            self._serve(key, now)
            if asked.pool is not None:
                asked.pool.mark(now)

    def failed(self, asked: Asked, error: RateLimitError, now: int) -> None:
        """Return what may have been granted, and have the calls fail that waited when it was sent."""
        with self._lock:
            key, pool = asked.key, asked.pool
            if key.request is not asked:
                return
            key.request = None
            if error.code is grpc.StatusCode.INVALID_ARGUMENT:  # which may be for a return: none of them is sent again
                if pool is not None:
                    pool.checked_until = now + _BACKWARD
            elif error.code is grpc.StatusCode.UNIMPLEMENTED:
                self._return_later(asked, now)
                self._all_checked_until = now + _BACKWARD
            else:
                self._return_later(asked, now)
                if pool is not None and is_failure(error):
                    self._give_up(asked, now)
                self._resolve(key, lambda waiter: error if waiter.sent is asked else False)
            self._serve(key, now)

    def withdraw(self, key_ids: Collection[str], now: int) -> None:
        """Spend nothing more of these keys, and ask again at their next call."""
        with self._lock:
            for key in [key for key_id in key_ids for key in self._by_id.get(key_id, ())]:
                key.denial = None
                for pool in key.pools:
                    pool.denial, pool.short, pool.checked_until = None, None, 0
                self._release(key, now)
                self._serve(key, now)

    @property
    def next_due(self) -> int | None:
        """When something is due. None: never."""
        due = self._due
        return due[0][0] if due else None

    def tick(self, now: int) -> None:
        """Do what is due: return units that nobody spends, and ask for more before others expire."""
        with self._lock:
            while self._due and self._due[0][0] <= now:
                due, _, key = heapq.heappop(self._due)
                if key.due == due:
                    key.due = 0
                    self._check(key, now)

    def close(self, now: int) -> None:
        """Return everything, now and whatever is granted still. Calls that wait fail."""
        with self._lock:
            self._closed = True
            for key in self._keys.values():
                self._resolve(key, lambda _: client_is_closed())
                self._serve(key, now)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is in flight."""
        with self._lock:
            return not self.outbox and all(key.request is None for key in self._keys.values())

    def _line(self, call: Call, now: int) -> Line | None:
        """The line of a call, None if it has to be checked by itself."""
        line = self.lines.get(call)
        key = self._key(call, now) if line is None else line.key
        if key is None:
            return None
        self._expire(key, now)
        was_quiet = key.quiet(now) > _QUIET and key.is_empty
        key.called(now)
        if was_quiet or now < self._all_checked_until:
            return None
        return line or self._new_line(key, call, now)

    def _key(self, call: Call, now: int) -> Key | None:
        """The key of a call. None if it is new, or has no units for such calls."""
        api_key, key_id, resource, cost = call
        if not (
            _is_sound(key_id or api_key, _MAX_TEXT) and _is_sound(resource, _MAX_RESOURCE) and 0 < cost <= MAX_COST
        ):
            return None
        key = self._keys.get((api_key, key_id))
        if key is None and (len(self._keys) < MAX_KEYS or self._sweep()):
            key = self._keys[api_key, key_id] = Key(api_key, key_id, now)
            self._schedule(key, now + _FORGET)
            return None
        return key

    def _new_line(self, key: Key, call: Call, now: int) -> Line | None:
        if len(key.lines) >= MAX_LINES_OF_KEY:
            key.take_reports()
            for line in key.lines:
                del self.lines[line.call]
            key.retired, key.lines = key.lines, []
        pool = key.pool_for(call.resource, call.cost, now) if len(self.lines) < MAX_LINES else None
        if pool is None:
            return None
        line = self.lines[call] = Line(key, call, pool)
        key.lines.append(line)
        return line

    def _decided(self, line: Line, now: int, origin: Origin) -> Decision | bool:
        """The decision on a call, by a denial of this ORIGIN if it is one. Otherwise whether it can wait for one."""
        key, pool = line.key, line.pool
        ended: list[Ended] = []
        unit = pool.take(now, ended)
        self._note_ended(key, ended, now)
        if unit is not None:
            line.tick()
            return unit
        for denial in (key.denial, pool.denial):
            if denial is not None and now < denial.until:
                return _denied(line, denial, now, origin)
        return now >= max(pool.checked_until, self._all_checked_until)

    def _serve(self, key: Key, now: int) -> None:
        """Decide the calls that wait, in order, and send what is to be sent next."""

        def decide(waiter: Waiter) -> Decision | Literal[False] | None:
            result = self._decided(waiter.line, now, Origin.SERVICE)
            if isinstance(result, Decision):
                self._served += result.allowed
                return result
            return False if result else None

        self._resolve(key, decide)
        key.quiet(now)  # which notes the units that were spent by now
        if self._closed:
            self._release(key, now)
        if key.request is None:
            self._send_next(key, now)
        self._schedule_check(key, now)

    def _resolve(self, key: Key, decide: "Callable[[Waiter], Result | Literal[False]]") -> None:
        """Pass to the calls that wait what becomes of them, in order. Those for which DECIDE is False wait on."""
        waiting, key.waiters = key.waiters, []
        for waiter in waiting:
            result = decide(waiter)
            if result is False:
                key.waiters.append(waiter)
            else:
                waiter.resolve(result)

    def _send_next(self, key: Key, now: int) -> None:
        pool = next((waiter.line.pool for waiter in key.waiters), None)
        pool = pool or next((pool for pool in key.pools if pool.wants_more), None)
        if pool is not None:
            self._ask(key, pool, now)
        elif key.is_empty and now >= key.rests_until:
            if self._closed or now - key.silent >= _REPORT:
                key.take_reports()
            if key.has_reports or key.has_returns(now - _TOO_OLD):
                self._ask(key, None, now)

    def _return_later(self, asked: Asked, now: int) -> None:
        """Send the returns of a request again, with the next one or alone after a while. Not once all is closed."""
        asked.key.rests_until = now + (_FORGET if self._closed else SECOND)
        asked.key.returns = asked.returns + asked.key.returns

    def _give_up(self, asked: Asked, now: int) -> None:
        """Return what a request may have been granted, but not at once: the service or its store has just failed."""
        asked.key.rests_until = max(asked.key.rests_until, now + SECOND)
        asked.key.returns.append(Return(asked.message.grant_id, asked.message.wants, now))

    def _ask(self, key: Key, pool: Pool | None, now: int) -> None:
        wants = 0
        if pool is not None:
            pool.wants_more = False
            waiting = sum(waiter.line.pool is pool for waiter in key.waiters)
            wants = pool.demand.wants(now, pool.spent + pool.denied + waiting, waiting, pool.horizon)
        self._requests += 1
        asked = key.ask(pool, wants, now, now - _TOO_OLD)
        for waiter in key.waiters:
            waiter.sent = asked
        self.outbox.append(asked)

    def _take_over(self, asked: Asked, pool: Pool, response: GrantResponse, now: int) -> None:
        key, decision = asked.key, response.decision
        if decision.key_id and not key.key_id:
            key.key_id = decision.key_id
            self._by_id.setdefault(key.key_id, set()).add(key)
        wait = _nanoseconds(response.ask_again_after)
        pool.short = None
        if response.granted and response.HasField("decision"):
            self._add(asked, pool, response, now)
        elif response.per_call:
            pool.checked_until = now + wait
            if response.per_call == GrantResponse.STORE_UNAVAILABLE:
                self._give_up(asked, now)
        elif response.HasField("decision"):
            self._deny(key, pool, decision, now, wait)
        else:  # the id was used before
            pool.checked_until = now + _MARGIN

    def _add(self, asked: Asked, pool: Pool, response: GrantResponse, now: int) -> None:
        """Take units that were granted."""
        key, ttl = asked.key, _nanoseconds(response.ttl)
        pool = self._cover(key, pool, response.resource_prefix if response.HasField("resource_prefix") else None, now)
        message = CheckLimitResponse()
        message.CopyFrom(response.decision)
        message.source = CheckLimitResponse.GRANT
        held = Held(asked.message.grant_id, response.granted, asked.at + ttl, Decision(message, Origin.GRANT))
        missing = asked.message.wants - response.granted
        is_short = missing > 0 and message.remaining // pool.cost < missing
        pool.horizon = ttl // 2
        self._granted += response.granted
        key.denial = pool.denial = pool.short = None
        pool.add(held, short=is_short, round_trip=self._round_trip)
        # The network may take longer than units last.
        pool.checked_until = now + SECOND if held.expires <= now else 0
        if missing > message.remaining // pool.cost // _SHARE:  # the next grant has not what is missing either
            pool.short = Denial(_over_limit(response.decision, _until_one(response.decision)), now, now)
            if is_short:
                self._came_short(asked, pool, pool.short)

    def _came_short(self, asked: Asked, pool: Pool, denial: Denial) -> None:
        """Deny the calls that a limit has no tokens for, which has less left than was wanted."""
        denied, now = denial.message, denial.at
        self._refuse(asked, pool, denial, denied.remaining // pool.cost)
        if denied.remaining < pool.cost:
            self._deny(asked.key, pool, denied, now, _nanoseconds(denied.retry_after))
        elif self._paced:
            self._deny(asked.key, pool, denied, now, 0)

    def _refuse(self, asked: Asked, pool: Pool, denial: Denial, remaining: int) -> None:
        """Deny the last of the calls that wait for units of POOL: those for which the limit had none left.

        By so much less than a request wanted that was sent when they waited.
        """
        room = pool.left + remaining

        def decide(waiter: Waiter) -> Decision | Literal[False]:
            nonlocal room
            if waiter.sent is not asked or waiter.line.pool is not pool:
                return False
            room -= 1
            return False if room >= 0 else _denied(waiter.line, denial, denial.at, Origin.SERVICE)

        self._resolve(asked.key, decide)

    def _deny(self, key: Key, pool: Pool, message: CheckLimitResponse, now: int, wait: int) -> None:
        """Deny calls without units for so long."""
        of_the_key = message.reason in _OF_THE_KEY
        pause = pool.horizon // 2
        if self._paced and wait < pause and not of_the_key:
            wait = pause
            message = _over_limit(message, wait)
        denial = Denial(message, now, now + min(wait, self._max_denial))
        if of_the_key:
            self._release(key, now)
            key.denial = denial
        else:
            pool.denial = denial

    def _cover(self, key: Key, asked: Pool, prefix: str | None, now: int) -> Pool:
        """The pool for units that were asked for ASKED, and are good for all resources that begin with PREFIX.

        None: for its own alone. Lines that it covers take its units from now on. Units that were charged to other
        limits are returned.
        """
        if asked.prefix == prefix:
            return asked
        target = self._pool_with(key, asked, prefix, now)
        for line in key.lines:
            if line.pool.cost == target.cost:
                if target.covers(line.call.resource):
                    line.pool = target
                elif line.pool is asked:
                    line.pool = Pool(line.call.resource, target.cost, now)
                    key.pools.append(line.pool)
        used = {target, *(line.pool for line in key.lines)}
        for unused in [one for one in key.pools if one not in used]:
            ended: list[Ended] = []
            unused.release(ended)
            self._note_ended(key, ended, now)
            key.drop(unused)
        return target

    def _pool_with(self, key: Key, asked: Pool, prefix: str | None, now: int) -> Pool:
        """The pool of a prefix: the one that there is, or ASKED if that had no units yet.

        Who takes units of a pool does not examine its prefix, so another prefix needs another pool.
        """
        for other in key.pools:
            if other is not asked and other.cost == asked.cost and prefix is not None and other.prefix == prefix:
                return other
        if not asked.granted:
            asked.prefix = prefix
            return asked
        pool = Pool(asked.resource, asked.cost, now)
        pool.prefix, pool.horizon, pool.demand = prefix, asked.horizon, asked.demand.copy(now)
        key.pools.append(pool)
        return pool

    def _note_ended(self, key: Key, ended: list[Ended], now: int) -> None:
        for each in ended:
            self._unused += each.unused
            if each.expired:
                self._expired += each.unused
            else:
                self._returned += each.unused
            key.returns.append(Return(each.grant_id, each.unused, now))

    def _release(self, key: Key, now: int) -> None:
        """Spend nothing more of a key."""
        ended: list[Ended] = []
        for pool in key.pools:
            pool.release(ended)
        self._note_ended(key, ended, now)

    def _expire(self, key: Key, now: int) -> None:
        """End the grants of a key that have no more units."""
        ended: list[Ended] = []
        for pool in key.pools:
            pool.expire(now, ended)
        self._note_ended(key, ended, now)

    def _check(self, key: Key, now: int) -> None:
        self._expire(key, now)
        ended: list[Ended] = []
        margin = 2 * self._round_trip + _MARGIN
        for pool in key.pools:
            if not pool.is_empty:
                if pool.is_idle(now):
                    pool.release(ended)
                elif pool.ends(now, margin):
                    pool.wants_more = True
        self._note_ended(key, ended, now)
        if key.request is None:
            self._send_next(key, now)
        if key.request is None and key.is_empty and key.quiet(now) >= _FORGET:
            self._forget(key)
        else:
            self._schedule_check(key, now)

    def _schedule_check(self, key: Key, now: int) -> None:
        margin = 2 * self._round_trip + _MARGIN
        due = now + _FORGET
        for pool in key.pools:
            if not pool.is_empty:
                due = min(due, max(pool.next_check(margin), now + _MARGIN))
        if key.is_empty and key.request is None:
            due = min(due, max(key.silent + _REPORT, now + SECOND))
            if key.rests_until > now:
                due = min(due, key.rests_until)
        self._schedule(key, due)

    def _schedule(self, key: Key, due: int) -> None:
        if not key.due or due < key.due:
            key.due = due
            heapq.heappush(self._due, (due, next(self._number), key))

    def _sweep(self) -> bool:
        """Forget keys of which nothing is held. Whether there were some among the first."""
        found = False
        for identity, key in list(islice(self._keys.items(), _SWEPT)):
            if key.request is None and key.is_empty and not key.waiters:
                self._forget(key)
                found = True
            else:
                self._keys[identity] = self._keys.pop(identity)  # to the end
        return found

    def _forget(self, key: Key) -> None:
        del self._keys[key.identity]
        for line in key.lines:
            del self.lines[line.call]
        if key.key_id:
            self._by_id[key.key_id].discard(key)
            if not self._by_id[key.key_id]:
                del self._by_id[key.key_id]
        key.due = -1


def _is_sound(text: str, most: int) -> bool:
    """Whether the service takes TEXT, of so many bytes at most."""
    if len(text) > most or _CONTROL.search(text):
        return False
    return text.isascii() or (text.isprintable() and len(text.encode()) <= most)


def _denied(line: Line, denial: Denial, now: int, origin: Origin) -> Decision:
    """Count a denied call of LINE, and decide it, with the waits of DENIAL shortened."""
    line.pool.denied += 1
    line.deny(denial.message.limit)
    return Decision(denial.message, origin, timedelta(microseconds=(now - denial.at) // 1_000))


def _until_one(granted: CheckLimitResponse) -> int:
    """The time in which the binding limit gains a token, if it does before its window ends."""
    binding = next((limit for limit in granted.limits if limit.name == granted.limit), None)
    if binding is None or binding.limit <= 0:
        return MS
    gains = max(_nanoseconds(binding.window) // binding.limit, MS)
    return min(gains, max(_nanoseconds(binding.reset_after), MS))


def _over_limit(granted: CheckLimitResponse, wait: int) -> CheckLimitResponse:
    """A denial by the binding limit of a decision, until so much later."""
    message = CheckLimitResponse()
    message.CopyFrom(granted)
    message.allowed, message.reason, message.source = False, CheckLimitResponse.OVER_LIMIT, CheckLimitResponse.STORE
    message.retry_after.FromNanoseconds(wait)
    for limit in message.limits:
        if limit.name == message.limit:
            limit.would_deny = True
            limit.retry_after.FromNanoseconds(wait)
    return message


def _nanoseconds(duration: Duration) -> int:
    return duration.seconds * SECOND + duration.nanos
