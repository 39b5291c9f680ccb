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
