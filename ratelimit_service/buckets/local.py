"""The bucket store in the memory of this process, the fallback while the shared one is unavailable."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from itertools import islice
from math import gcd
from typing import Final, NamedTuple

from ratelimit_service.buckets.expiring import Expiring
from ratelimit_service.buckets.levels import Level, LevelMemory
from ratelimit_service.buckets.reference import ReferenceBuckets, State, Terms, advance, take
from ratelimit_service.decision.charge import MAX_HELD_US, Bucket, Charge, ChargeResult
from ratelimit_service.decision.limit import MICRO, Concurrency
from ratelimit_service.decision.ports import StoreUnavailable

MAX_STATES: Final = 50_000
"""Buckets that are kept, about 600 bytes each, and as many results of requests. Those charged longest ago are evicted
first, and what was spent of them is not handed to the store."""

_PARTS: Final = 10_000
"""A share that was seen is rounded to one of so many parts of a limit."""


class Share:
    """This server's share of one bucket.

    Taken at the monotonic time `since`. `seen` is the part of everybody's charges that were this server's among
    `seen_servers`; 0 if that is not known, and the share an equal one. `servers` is the number that `terms` are for.
    Its `state`, and in `store` the state that it would have without the calls that the store was not asked for: what is
    used beyond that is not known to the store yet.
    """

    __slots__ = ("bucket", "parts", "seen", "seen_servers", "servers", "since", "state", "store", "terms", "whole")

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.since = self.seen = 0.0
        self.state = self.store = State()
        self.servers = self.seen_servers = self.parts = self.whole = 1
        self.terms = Terms.of(bucket.limit)

    def divide(self, bucket: Bucket, servers: int) -> None:
        """Make it the share of BUCKET's limit, but at least one token, that this server has among SERVERS."""
        if self.seen:
            part = _part_among(servers, self.seen, self.seen_servers)
            self.parts, self.whole = max(round(part * _PARTS), 1), _PARTS
        else:
            self.parts, self.whole = 1, servers
        self.bucket, self.servers = bucket, servers
        capacity, (numerator, denominator), window, enforced, overdraft, _ = Terms.of(bucket.limit)
        numerator, denominator = numerator * self.parts, denominator * self.whole
        common = gcd(numerator, denominator)
        rate = (numerator // common, denominator // common) if window is None else (0, 1)
        part = max(capacity * self.parts // self.whole, MICRO)
        overdraft = None if overdraft is None else capacity + overdraft - part
        self.terms = Terms(part, rate, window, enforced, overdraft)

    def spent(self, now_us: int) -> int:
        """Micro-tokens spent without the store that have not drained, and that it does not know of."""
        used = advance(self.terms, self.state, now_us).state.used
        return used - advance(self.terms, self.store, now_us).state.used

    def note(self, tokens: int, now_us: int) -> None:
        """Note that the store knows of so many of the tokens spent, or never will."""
        self.store = take(advance(self.terms, self.store, now_us).state, tokens * MICRO)


class _States(MutableMapping[str, State]):
    """The states of the shares, by the names of their buckets."""

    def __init__(self, shares: OrderedDict[str, Share]) -> None:
        self._shares = shares

    def __getitem__(self, name: str) -> State:
        return self._shares[name].state

    def __setitem__(self, name: str, state: State) -> None:
        self._shares[name].state = state

    def __delitem__(self, name: str) -> None:
        del self._shares[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shares)

    def __len__(self) -> int:
        return len(self._shares)


class Spent(NamedTuple):
    """So many tokens of a bucket were spent without the store."""

    bucket: Bucket
    tokens: int


class LocalBucketStore:
    """Buckets in memory, each with this server's share of its limit, but never less than one token.

    All servers together allow about as much as the limit. Of a bucket that this worker saw in the store's results
    (`levels`), its share is the part of everybody's charges that it made itself, and what was used then is used here.
    Of any other it is an equal one, and of a concurrency
    limit: its slots come back as their holds end. `servers()` is the number of live servers, at least 1, called at each
    charge. `now_us()` is the time in microseconds since 1970 UTC. `request_window` is in seconds.
    """

    def __init__(
        self,
        servers: Callable[[], int],
        now_us: Callable[[], int],
        levels: LevelMemory | None = None,
        *,
        request_window: float = 30.0,
        size: int = MAX_STATES,
    ) -> None:
        self._servers = servers
        self._now_us = now_us
        self._levels = LevelMemory() if levels is None else levels
        self._size = size
        self._shares: OrderedDict[str, Share] = OrderedDict()
        self._requests: Expiring[str, ChargeResult] = Expiring(size, round(request_window * MICRO), now_us)
        self._buckets = ReferenceBuckets(
            _States(self._shares),
            self._requests,
            self._terms,
            Expiring(0, 0, now_us),  # nothing is settled here: each hold runs out
            Expiring(size, MAX_HELD_US, now_us),
        )
        self.evicted = 0
        """Tokens so far that were spent without the store, and forgotten before it knew of them."""

    async def charge(
        self,
        charges: Sequence[Charge],
        deadline: float | None = None,  # noqa: ARG002  it never waits
    ) -> Sequence[ChargeResult]:
        """Make each charge or none of it, in this order. Always succeeds."""
        return [self._charge(charge, self._now_us()) for charge in charges]

    def decide(self, charge: Charge, error: StoreUnavailable) -> ChargeResult:
        """Make a charge that the store failed to make, or none of it."""
        now_us = self._now_us()
        repeated = charge.request in self._requests
        before = [self._spent(bucket, now_us) for bucket in charge.buckets] if charge.afterwards else []
        result = self._charge(charge, now_us)
        if not error.sent or repeated:
            return result
        for bucket, spent in zip(charge.buckets, before, strict=False):  # of each what it took, which may be a part
            self.report(bucket, (self._spent(bucket, now_us) - spent) // MICRO)
        if result.charged and not charge.afterwards:
            # Perhaps the store has made it all the same, only its reply is missing: it is never handed over.
            for bucket, cost, limit in zip(charge.buckets, charge.costs, result.limit_results, strict=True):
                if cost > 0 and limit.wait_us == 0:
                    self.report(bucket, cost)
        return result

    def spend(self, charge: Charge, error: StoreUnavailable) -> None:
        """Take a charge that is allowed whatever its buckets have, so that it is handed over later.

        Of each bucket no more than its limit has, the overdraft included, is noted: the store would take no more.
        """
        if error.sent or charge.request in self._requests:
            return
        if charge.request:
            self._requests[charge.request] = ChargeResult(charged=True, limit_results=())
        now_us = self._now_us()
        for bucket, cost in zip(charge.buckets, charge.costs, strict=True):
            if cost > 0 and not _has_slots(bucket):
                share = self._open(bucket, now_us)
                state = take(advance(share.terms, share.state, now_us).state, cost * MICRO)
                full = advance(share.terms, share.store, now_us).state.used + Terms.of(bucket.limit).most
                share.state = state._replace(used=full) if state.used > full else state
        self._evict(now_us)

    def unreported(self, count: int) -> list[Spent]:
        """The first COUNT buckets of which tokens were spent that the store does not know of. Forgets others met.

        A part of a token counts as one. Never more than the limit has, the overdraft included.
        """
        now_us = self._now_us()
        found: list[Spent] = []
        while len(found) < count:
            name = next(islice(self._shares, len(found), None), None)
            if name is None:
                break
            share = self._shares[name]
            tokens = min(-(-share.spent(now_us) // MICRO), Terms.of(share.bucket.limit).most // MICRO)
            if tokens > 0:
                found.append(Spent(share.bucket, tokens))
            else:
                del self._shares[name]
        return found

    def postpone(self, bucket: Bucket) -> None:
        """Let others be found first by `unreported`."""
        if bucket.name in self._shares:
            self._shares.move_to_end(bucket.name)

    def report(self, bucket: Bucket, tokens: int) -> None:
        """Note that the store knows of so many of the tokens spent, or never will."""
        share = self._shares.get(bucket.name)
        if share is not None:
            share.note(tokens, self._now_us())

    @property
    def waiting(self) -> int:
        """The number of buckets of which tokens may have been spent that the store does not know of."""
        return len(self._shares)

    def _charge(self, charge: Charge, now_us: int) -> ChargeResult:
        for bucket, cost in zip(charge.buckets, charge.costs, strict=True):
            if not _has_slots(bucket) and (
                cost or self._levels.find(bucket) is not None or bucket.name in self._shares
            ):
                self._open(bucket, now_us)
        (result,) = self._buckets.charge((charge,), now_us)
        self._evict(now_us)
        return result

    def _spent(self, bucket: Bucket, now_us: int) -> int:
        share = self._shares.get(bucket.name)
        return 0 if share is None else share.spent(now_us)

    def _terms(self, bucket: Bucket) -> Terms:
        share = self._shares.get(bucket.name)
        # An untouched bucket at which a call peeks, or one of slots, which have no share; one of its name may have had.
        if share is None or _has_slots(bucket):
            return Terms.of(bucket.limit, self._count())
        if share.bucket is not bucket:
            share.divide(bucket, share.servers)
        return share.terms

    def _count(self) -> int:
        return max(self._servers(), 1)

    def _open(self, bucket: Bucket, now_us: int) -> Share:
        """The share of a bucket, taken anew if the store has replied since, or divided anew."""
        share, level, servers = self._shares.get(bucket.name), self._levels.find(bucket), self._count()
        if share is None:
            share = self._shares[bucket.name] = Share(bucket)
            self._take(share, bucket, level, now_us)
        elif level is not None and level.at > share.since:
            self._take(share, bucket, level, now_us)
        elif share.servers != servers:
            _divide_anew(share, bucket, servers, now_us)
        self._shares.move_to_end(bucket.name)
        return share

    def _take(self, share: Share, bucket: Bucket, level: Level | None, now_us: int) -> None:
        """Take the share by LEVEL. What was spent before, and is not reported yet, is used beside it."""
        now, servers = self._levels.now(), self._count()
        unreported = max(share.spent(now_us), 0)
        share.since, share.seen_servers = now, servers
        share.seen = 0.0 if level is None else level.share(servers, now)
        share.divide(bucket, servers)
        used = 0
        if level is not None:
            terms = Terms.of(bucket.limit)
            seen = State(level.used, now_us - round((now - level.at) * MICRO))
            left = terms.capacity - advance(terms, seen, now_us).state.used
            debt = 0 if terms.overdraft is None else max(-left, 0)
            left = max(left, 0)
            own = max(left * share.parts // share.whole, min(left, MICRO))
            used = max(share.terms.capacity - own, 0) + debt * share.parts // share.whole
        share.store = State(used, now_us)
        share.state = State(used + unreported, now_us)

    def _evict(self, now_us: int) -> None:
        while len(self._shares) > self._size:
            _, share = self._shares.popitem(last=False)
            self.evicted += max(share.spent(now_us), 0) // MICRO


def _has_slots(bucket: Bucket) -> bool:
    return isinstance(bucket.limit.algorithm, Concurrency)


def _part_among(servers: int, seen: float, seen_servers: int) -> float:
    """The part of everybody's charges that are this server's among SERVERS, if it was SEEN among SEEN_SERVERS.

    Each other server is taken to have had an equal part of the rest. That of those that have ended goes to all that are
    left, in proportion to their own, and so does that of new ones come from all.
    """
    if servers >= seen_servers:
        return seen * seen_servers / servers
    ended = (1 - seen) * (seen_servers - servers) / (seen_servers - 1)
    return min(seen / (1 - ended), 1.0)


def _divide_anew(share: Share, bucket: Bucket, servers: int, now_us: int) -> None:
    """Make it a share among SERVERS, of what had been used when it was taken as well."""
    state, store = (advance(share.terms, held, now_us).state for held in (share.state, share.store))
    before = share.parts / share.whole
    share.divide(bucket, servers)
    more = round(store.used * (share.parts / share.whole / before - 1))
    share.state, share.store = take(state, more), take(store, more)
