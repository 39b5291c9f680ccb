"""The garbage collector of a process that has much in memory."""

import subprocess
import sys
import textwrap

_PROGRAM = """
import gc, time, weakref
from ratelimit_service.server.collector import YOUNG_OBJECTS, tune_collector

class Node:
    pass

def cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)

kept = [[number] for number in range(1_000_000)]
tune_collector()
tune_collector()  # as often as it is called
kept += [[number] for number in range(1_000_000)]
young = cycle()
collected, longest, last = [], 0.0, time.perf_counter()
gc.callbacks.append(lambda phase, info: phase == "stop" and collected.append(info["generation"]))
for number in range(6 * YOUNG_OBJECTS):
    kept.append([number])
    now = time.perf_counter()
    longest, last = max(longest, now - last), now
assert young() is None, "what is young is collected"
assert set(collected) == {0, 1}, collected
assert len(gc.get_objects()) < 5 * YOUNG_OBJECTS, "what is old is not gone through any more"
assert longest < 0.5, longest
"""


def test_what_is_old_is_not_gone_through() -> None:
    """Cycles of young objects are collected; two million old ones cost nothing."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_PROGRAM)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


_REPLACED = """
import asyncio, gc, time
from collections import OrderedDict
from ratelimit_service.server.collector import keep_few_young, tune_collector

def policy(number):
    return [[number, text] for text in "policy"]

cached = OrderedDict((number, policy(number)) for number in range(100_000))
tune_collector()
longest, begun = 0.0, 0.0

def time_it(phase, info):
    global longest, begun
    now = time.perf_counter()
    longest, begun = max(longest, now - begun if phase == "stop" else 0.0), now

gc.callbacks.append(time_it)

async def main():
    keeping = asyncio.create_task(keep_few_young())
    most, until, number = 0, time.monotonic() + 4.0, 100_000
    while time.monotonic() < until:
        for number in range(number, number + 100):
            cached[number] = policy(number)
            cached.popitem(last=False)
        most = max(most, gc.get_count()[0])
        await asyncio.sleep(0.001)
    young = len(gc.get_objects(0)) + len(gc.get_objects(1))
    assert number > 200_000, "all policies of the cache were replaced"
    assert young < 120_000, (young, number)
    assert longest < 0.25, longest
    keeping.cancel()

asyncio.run(main())
"""


def test_what_takes_the_place_of_old_objects_is_collected_in_time() -> None:
    """A cache of which all entries are replaced again and again: no collection goes through all of them."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_REPLACED)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
