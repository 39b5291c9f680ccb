"""The garbage collector of a process that serves."""

import gc
from typing import Final

_YOUNG: Final = 50_000
"""Objects made and not freed that set off a look at the young ones: well above what a full load of calls holds."""


def settle_collector() -> None:
    """Have the collector look less often, and not at all at what is there now. Call it when everything is open.

    Calls leave no cycles behind, so their objects go by reference counts. With Python's own threshold of 700 the
    collector would go through all calls in flight several hundred times a second, and find nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 50)
