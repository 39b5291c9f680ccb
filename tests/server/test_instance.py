"""The folder that the processes of a server share."""

from pathlib import Path

import pytest

from ratelimit_service.errors import StartupError
from ratelimit_service.server.instance import open_instance
from ratelimit_service.settings import Settings


def test_a_folder_whose_name_is_too_long_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported before anything is started, with what to do; not by the first process that opens a socket."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    settings = Settings(listen="127.0.0.1:0")
    with pytest.raises(StartupError, match="set TMPDIR to a shorter one"), open_instance(settings):
        pass
    assert not list(folder.iterdir())
