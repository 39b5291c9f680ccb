"""Looks for known vulnerabilities in the versions of requirements.lock, by pip-audit.

Exits with 1 if it knows of one. Where the database of advisories cannot be reached, for all packages or for some, it
says so and exits with 0: that is no finding, and no proof of absence either.
"""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
AUDITOR: Final = Path(sysconfig.get_path("scripts")) / "pip-audit"
SECONDS: Final = 300
"""In which all packages must have been looked up."""


def audit() -> tuple[str, str]:
    """What pip-audit reports as JSON, and what it prints; empty JSON if it could not work."""
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "5", "--format", "json"]
    command = [str(AUDITOR), "--requirement", str(ROOT / "requirements.lock"), *options]
    try:
        done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return "", f"no answer within {SECONDS} s"
    return done.stdout, done.stderr.strip().rpartition("\n")[2]


def report(output: str, message: str) -> tuple[int, list[str]]:
    """The exit code and the lines for what pip-audit reported."""
    try:
        packages: Sequence[Mapping[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError):
        return 0, [f"dependencies were NOT checked for vulnerabilities: {message or 'pip-audit did not work'}"]
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'none'}"
        for package in packages
        for found in package.get("vulns", ())
    ]
    skipped = [package for package in packages if "skip_reason" in package]
    code = 1 if lines else 0
    if skipped:
        lines.append(
            f"{len(skipped)} of {len(packages)} dependencies were NOT checked for vulnerabilities: "
            f"{skipped[0]['skip_reason']}"
        )
    elif not lines:
        lines.append(f"none of {len(packages)} dependencies has a known vulnerability")
    return code, lines


if __name__ == "__main__":
    exit_code, printed = report(*audit())
    print("\n".join(printed), file=sys.stderr)
    sys.exit(exit_code)
