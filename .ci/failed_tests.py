"""Says whether the tests that failed may be run once more, alone, and which they are.

Thousands of tests run two at a time with real servers and stores, on hosts that have other work: now and then a bound
on time is missed that holds when the test runs alone. A test that fails again has failed. What is named here has
failed once all the same: read why, since a race may hide there. More than MAX_FAILED are no accident.
"""

import json
import sys
from pathlib import Path

MAX_FAILED = 10


def failed(cache: Path) -> list[str]:
    """The tests that failed when they ran last, by pytest's cache."""
    file = cache / "v" / "cache" / "lastfailed"
    return sorted(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else []


def main(cache: Path) -> int:
    """Exit code 0 if they may be run again."""
    names = failed(cache)
    if not 1 <= len(names) <= MAX_FAILED:
        print(f"{len(names)} tests failed; up to {MAX_FAILED} would be run again", file=sys.stderr)
        return 1
    print("failed once, and run again alone now:", *names, sep="\n  ", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".pytest_cache")))
