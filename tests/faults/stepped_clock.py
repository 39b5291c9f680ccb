"""Real processes on a clock that a test steps: libfaketime stands between them and the C library."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from ratelimit_service.devstores.valkey import EmbeddedValkey

HOUR: Final = 3_600


class SteppedClock:
    """A time of day that a test steps. The monotonic clock, by which processes sleep, goes on as ever."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set_offset(0)

    def set_offset(self, seconds: float) -> None:
        """Have it be so many seconds ahead of this machine's, at once."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.6f}\n")
        new.replace(self._file)

    def variables(self) -> Mapping[str, str]:
        """The environment of a process that goes by this clock, with its children."""
        return {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


class SteppedValkey(EmbeddedValkey):
    """A Valkey on a clock of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "data")
        self._clock = SteppedClock(folder / "offset")

    def set_offset(self, seconds: float) -> None:
        """Have its clock be so many seconds ahead of this machine's, at once."""
        self._clock.set_offset(seconds)

    def start(self) -> None:
        """Start it."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self._clock.variables().items():
                patch.setenv(name, value)
            super().start()


def _library() -> Path:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert found, "there is no /usr/lib/*/faketime/libfaketimeMT.so.1; run tests/install-tools"
    return found[0]


@contextmanager
def stepped_valkey(folder: Path) -> Iterator[SteppedValkey]:
    """Such a Valkey, with its data in FOLDER."""
    server = SteppedValkey(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
