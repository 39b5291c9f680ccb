"""Importing without Python's garbage collector, and without what only tracebacks in colour need."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_collector() -> Iterator[None]:
    """A block that imports. What was imported is not gone through again by the collector.

    It would run several hundred times while the modules of a server are imported, a tenth of the CPU that it takes, and
    find next to nothing: modules stay.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def without_rich() -> Iterator[None]:
    """A block that imports structlog, which takes rich for tracebacks where it is installed. No log of ours has those.

    That would be a twelfth of the CPU that a process takes to import its modules. Rich can be imported after the block.
    """
    if "rich" in sys.modules:
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules["rich"] = None  # an import of it fails, as if it were not installed
    try:
        yield
    finally:
        del modules["rich"]
