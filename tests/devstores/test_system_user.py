"""Root runs PostgreSQL as another user, without opening folders to others that it did not make."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.dev_server import DevServer, free_address
from ratelimit_service.devstores import postgres
from ratelimit_service.devstores.postgres import EmbeddedPostgres
from ratelimit_service.devstores.system_user import EmbeddedPostgresError, make_folder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user")


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that only root may enter."""
    folder = Path(tempfile.mkdtemp(prefix="ratelimit-closed-"))
    yield folder
    shutil.rmtree(folder)


def mode(folder: Path) -> int:
    """The permissions of a folder."""
    return stat.S_IMODE(folder.stat().st_mode)


def test_dev_opens_no_folder_that_it_did_not_make(closed: Path) -> None:
    """In a closed folder dev fails, names the folder and what to do, and leaves the folder closed."""
    dev = DevServer(closed / "project" / ".ratelimit", free_address(), transport="grpcio")
    done = dev.run("dev")
    assert done.returncode == 4
    assert f"may not enter {closed} on the way to {closed}/project/.ratelimit/postgres" in done.stderr
    assert "set RATELIMIT_DATA_DIR to a folder that others may enter" in done.stderr
    assert f"chmod o+x {closed}" in done.stderr
    assert "Traceback" not in done.stderr
    assert mode(closed) == 0o700


def test_an_installation_that_is_closed_is_no_matter_of_the_data_folder(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed where only root may enter, as in root's home, it says so; another data folder would not help."""
    programs, home = closed / "venv" / "bin", Path(tempfile.mkdtemp(prefix="ratelimit-open-"))
    home.chmod(0o711)
    programs.mkdir(parents=True)
    monkeypatch.setattr(postgres, "_programs", lambda: programs)
    try:
        with pytest.raises(EmbeddedPostgresError, match="install the service where others may enter") as found:
            EmbeddedPostgres(home / "postgres").start()
    finally:
        shutil.rmtree(home)
    assert f"may not enter {closed} on the way to {programs}" in str(found.value)
    assert "RATELIMIT_DATA_DIR" not in str(found.value)


def test_folders_that_it_makes_can_be_entered_and_not_listed(closed: Path) -> None:
    """A mask that closes new folders does not matter; those that were there keep their mode."""
    before = os.umask(0o077)
    try:
        make_folder(closed / "a" / "b")
    finally:
        os.umask(before)
    assert [mode(folder) for folder in (closed / "a" / "b", closed / "a", closed)] == [0o711, 0o711, 0o700]
    make_folder(closed)
    assert mode(closed) == 0o700
