"""Gives back what one part of a charge took when another part was denied. `lua/give_back.lua` says how."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import hiredis

from ratelimit_service.buckets.cluster import Cluster
from ratelimit_service.buckets.encoding import bucket_key
from ratelimit_service.buckets.link import LinkLost
from ratelimit_service.buckets.script import Script, part
from ratelimit_service.decision.charge import Bucket, Weighed
from ratelimit_service.decision.limit import MICRO, TokenBucket
from ratelimit_service.decision.ports import StoreUnavailable


class Taken(NamedTuple):
    """What a charge took from a bucket, in tokens, and what the bucket said then."""

    bucket: Bucket
    cost: int
    said: Weighed


class GiveBack:
    """Undoes charges on a Redis Cluster.

    `request_window` in seconds is how long the store keeps the outcome of a request; by what is left of that it knows
    exactly when the charge was made. `timeout` in seconds bounds each call.
    """

    def __init__(self, cluster: Cluster, *, request_window: float, timeout: float) -> None:
        self._cluster = cluster
        self._window_ms = max(round(request_window * 1_000), 1)
        self._timeout = timeout
        self._script = Script(part("give_back")).text

    async def __call__(self, request: str, taken: Sequence[Taken]) -> bool:
        """Undo the charge of this request, whose buckets are in one partition. Returns whether it was there to undo.

        Sent again as often as it takes, since the script does it once. Raises StoreUnavailable when time is up: then
        perhaps nothing was given back, and what was taken drains like any other charge.
        """
        partition = taken[0].bucket.partition
        keys = [b"{p%d}:r:%b" % (partition, request.encode()), *(bucket_key(one.bucket) for one in taken)]
        numbers = [self._window_ms, *(number for one in taken for number in _numbers(one))]
        route = self._cluster.route(partition)
        why = "no connection could be made"
        try:
            async with asyncio.timeout(self._timeout):
                link = route.link() or await route.recover("")
                while True:
                    try:
                        return await link.ask("EVAL", self._script, len(keys), *keys, *numbers) == 1
                    except hiredis.ReplyError as refusal:
                        why = str(refusal)
                        link = await route.recover(why)
                    except LinkLost as fault:
                        why = str(fault)
                        link = await route.recover("")
        except TimeoutError:
            raise StoreUnavailable(f"a charge could not be given back within {self._timeout:g} s: {why}") from None


def _numbers(taken: Taken) -> tuple[int, int, int, int, int]:
    bucket, cost, said = taken
    amount = cost * MICRO
    before = max(bucket.limit.capacity * MICRO - said.remaining - amount, 0)
    algorithm = bucket.limit.algorithm
    numerator, denominator = algorithm.rate if isinstance(algorithm, TokenBucket) else (0, 0)
    return amount, before, numerator, denominator, said.reset_us
