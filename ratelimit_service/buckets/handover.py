"""Hands to the shared store what was spent of its buckets while it was away."""

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, NamedTuple
from uuid import uuid4

from ratelimit_service.buckets.closing import Closing
from ratelimit_service.buckets.local import LocalBucketStore, Spent
from ratelimit_service.buckets.outcomes import Outcome
from ratelimit_service.decision.charge import NO_ROOM, Bucket, Charge
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.decision.ports import BucketStore, PartlyUnavailable, StoreUnavailable

PAUSE_SECONDS: Final = 0.25
"""Between two times that it looks for what was spent."""

BATCH: Final = 64
"""Buckets that are handed over in one call. It takes the store some 0.5 ms, in which decisions wait."""

BATCH_PAUSE_SECONDS: Final = 0.005
"""Between two calls. The store is back, and decisions come first."""

RESEND_SECONDS: Final = 1.5
"""For which a charge without a reply is repeated, by its id. A store that is full keeps the results of requests for two
seconds only; it would make a later repeat as a new charge."""


class _Sent(NamedTuple):
    """A charge that was handed over at a monotonic time, and whose reply is missing."""

    charge: Charge
    at: float


class Handover(Closing):
    """Charges the shared store with what `local` has spent, each bucket on its own, once.

    It takes no more than the bucket has: what is above that is dropped, so it never makes debt, unless the limit has an
    overdraft: then what was spent is owed, as far as that goes. A charge whose reply is missing is repeated by its id,
    which the store charges once; after RESEND_SECONDS it counts as made. Close it before the store, or use it as
    `async with`.
    """

    def __init__(self, local: LocalBucketStore, store: BucketStore, now: Callable[[], float] = monotonic) -> None:
        self._local = local
        self._store = store
        self._now = now
        self._unanswered: dict[str, _Sent] = {}
        self._running = asyncio.Lock()
        self.handed_over = 0
        """Tokens so far that the store has charged."""
        self.dropped = 0
        """Tokens so far of which the store had no more: their buckets were empty, or there was no room for them."""
        self.unconfirmed = 0
        """Tokens so far that the store may have charged."""

    @property
    def evicted(self) -> int:
        """Tokens so far that were forgotten, because too many buckets were spent of."""
        return self._local.evicted

    async def run(self) -> None:
        """Hand over what there is, until cancelled."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            if self._local.waiting:
                await self.flush()

    async def close(self) -> None:
        """Try for the last time. What the store does not take now is lost."""
        await self.flush()

    async def flush(self) -> bool:
        """Hand over all there is. Returns whether the store has it; gives up at the first call that fails."""
        async with self._running:
            self._give_up()
            while spent := self._local.unreported(BATCH):
                if not await self._hand_over(spent):
                    return False
                await asyncio.sleep(BATCH_PAUSE_SECONDS)
            return not self._local.waiting

    async def _hand_over(self, spent: Sequence[Spent]) -> bool:
        """Charge these buckets. Returns whether the store made at least one charge, or refused it."""
        charges = [self._charge(bucket, tokens) for bucket, tokens in spent]
        outcomes: Sequence[Outcome]
        try:
            outcomes = await self._store.charge(charges)
        except PartlyUnavailable as error:
            outcomes = error.results
        except StoreUnavailable as error:
            outcomes = (error,) * len(charges)
        answered = False
        for charge, outcome in zip(charges, outcomes, strict=True):
            (bucket,) = charge.buckets
            if isinstance(outcome, StoreUnavailable):
                if outcome.sent:
                    self._unanswered.setdefault(bucket.name, _Sent(charge, self._now()))
                self._local.postpone(bucket)
                continue
            answered = True
            self._unanswered.pop(bucket.name, None)
            tokens, (result,) = charge.costs[0], outcome.limit_results
            if charge.afterwards:
                self.handed_over += tokens - outcome.clamped
                self.dropped += outcome.clamped
                self._local.report(bucket, tokens)
            elif outcome.charged and result.wait_us == 0:
                self.handed_over += tokens
                self._local.report(bucket, tokens)
            else:  # at the next call there is as much less to hand over, and it is another charge
                left = 0 if result.wait_us == NO_ROOM else result.remaining // MICRO
                self.dropped += tokens - min(left, tokens)
                self._local.report(bucket, tokens - min(left, tokens))
        return answered

    def _charge(self, bucket: Bucket, tokens: int) -> Charge:
        sent = self._unanswered.get(bucket.name)
        if sent is not None:
            return sent.charge
        return Charge((bucket,), (tokens,), uuid4().hex[:24], afterwards=bucket.limit.overdraft is not None)

    def _give_up(self) -> None:
        """Count as made what can no longer be repeated."""
        for name, (charge, at) in list(self._unanswered.items()):
            if self._now() - at > RESEND_SECONDS:
                del self._unanswered[name]
                self.unconfirmed += charge.costs[0]
                self._local.report(charge.buckets[0], charge.costs[0])
