"""Python's garbage collector, which finds cycles: never over what is old.

Calls leave no cycles behind, so their objects go by reference counts, and so do policies that leave a cache. A full
collection would go through all of them all the same: with 100,000 policies in memory that takes more than a second, in
which a worker answers nobody (docs/adr/0030-garbage-collector.md).
"""

import asyncio
import gc
from collections.abc import Mapping
from typing import Any, Final

YOUNG_OBJECTS: Final = 50_000
"""Objects allocated and not freed that start a collection of the young ones: well above what a full load of calls
holds. What survives it is gone through once more, with the young ones after it, which takes some 50 ms at most."""

SOUGHT_YOUNG: Final = 20_000
"""Young objects that `keep_few_young` goes through at a time: 10 ms."""

MAX_PAUSE: Final = 1.0
MIN_PAUSE: Final = 0.05
"""Seconds between two counts of what is young."""

_NEVER: Final = 2**31 - 1


def tune_collector() -> None:
    """Have it run less often, and only over what is young. Call it when everything is open.

    With Python's own threshold of 700 it would go through all calls in flight several hundred times a second, and find
    nothing. What has survived two collections is frozen: the collector passes it over from then on.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 1, _NEVER)
    if _freeze_survivors not in gc.callbacks:
        gc.callbacks.append(_freeze_survivors)


async def keep_few_young() -> None:
    """Collect what is young before it is too much, until cancelled.

    Python counts an old object that is freed against a young one that is allocated. Where new policies take the places
    of old ones the count stays as it is, while ever more objects are young: in the end one collection would go through
    all policies in memory. So they are counted themselves, which takes half as long as a collection.
    """
    pause = MAX_PAUSE
    while True:
        await asyncio.sleep(pause)
        young = len(gc.get_objects(0)) + len(gc.get_objects(1))
        if young >= SOUGHT_YOUNG / 2:  # fewer are left alone: most of them go by themselves
            gc.collect(1)
        pause = min(max(pause * SOUGHT_YOUNG / max(young, 1), MIN_PAUSE), MAX_PAUSE)


def _freeze_survivors(phase: str, info: Mapping[str, Any]) -> None:
    if phase == "stop" and info["generation"] > 0:
        gc.freeze()
