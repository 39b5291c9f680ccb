"""A real Valkey on a clock that a test steps: libfaketime stands between it and the C library."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from ratelimit_service.devstores.valkey import EmbeddedValkey

HOUR: Final = 3_600


class SteppedValkey(EmbeddedValkey):
    """A Valkey whose time of day a test steps. Its monotonic clock, by which it sleeps, goes on as ever."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "data")
        self._file = folder / "offset"
        self.set_offset(0)

    def set_offset(self, seconds: float) -> None:
        """Have its clock be so many seconds ahead of this machine's, at once."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.6f}\n")
        new.replace(self._file)

    def start(self) -> None:
        """Start it on its own clock."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LD_PRELOAD", str(_library()))
            patch.setenv("FAKETIME_TIMESTAMP_FILE", str(self._file))
            patch.setenv("FAKETIME_NO_CACHE", "1")
            patch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
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
