"""Has a server list the calls that enter its applications: all but those which are decided without a task."""

import os
from contextlib import AbstractContextManager
from pathlib import Path

from ratelimit_service.transport.envoy import app, crossing
from ratelimit_service.transport.envoy.direct import Methods
from ratelimit_service.transport.envoy.framing import App

VARIABLE = "ENTERED"
"""Names the file to which their paths are added."""


_FILE = "entered"


def variables(folder: Path) -> dict[str, str]:
    """What a server needs in its environment for that. The list is in FOLDER."""
    (folder / "sitecustomize.py").write_text(f"import {__name__} as entered\n\nentered.install()\n")
    tests = str(Path(__file__).parents[2])
    path = os.pathsep.join([str(folder), tests, os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": path, VARIABLE: str(folder / _FILE)}


def entered(folder: Path) -> list[str]:
    """The paths of the calls so far."""
    file = folder / _FILE
    return file.read_text().split() if file.exists() else []


def install() -> None:
    """Have it begin in this process."""
    app.__dict__["taking_calls"] = _taking_calls


def _taking_calls(methods: Methods) -> AbstractContextManager[None]:
    return crossing.taking_calls(
        methods._replace(apps={path: _listed(path, one) for path, one in methods.apps.items()})
    )


def _listed(path: str, one: App) -> App:
    def enter(*call: object) -> object:
        with Path(os.environ[VARIABLE]).open("a") as entered:
            entered.write(f"{path}\n")
        return one(*call)  # type: ignore[arg-type]

    return enter  # type: ignore[return-value]
