"""Has every Python that finds this folder in PYTHONPATH loop for good once a file with its process id appears.

Python imports this module when it starts. The loop holds the interpreter, as one in an event loop does.
"""

import os
import re
import threading
import time
from pathlib import Path

_LOOPS = re.compile("(a+)+$")


def _loop_when_asked(folder: Path) -> None:
    while not (folder / str(os.getpid())).exists():
        time.sleep(0.02)
    _LOOPS.match("a" * 100 + "b")  # takes longer than the universe lasts, and lets no other thread run


if "HANGING_FOLDER" in os.environ:
    threading.Thread(target=_loop_when_asked, args=(Path(os.environ["HANGING_FOLDER"]),), daemon=True).start()
