"""Looks for secrets in the tree: what detect-secrets finds, and keys of this service whose checksum is right.

    python .ci/find_secrets.py [FILE ...]      those files, or all that git tracks; exits with 1 if there is a new one
    python .ci/find_secrets.py --allow         takes all that are there now for known: examples, and keys of tests

What is known is in `.ci/known-secrets`, by file and digest, so that it stays known when lines move.
"""

import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, Final, NamedTuple

from ratelimit_service.decision.api_key import ApiKey

ROOT: Final = Path(__file__).resolve().parent.parent
KNOWN: Final = ROOT / ".ci" / "known-secrets"
SCANNER: Final = Path(sysconfig.get_path("scripts")) / "detect-secrets"
CACHE: Final = Path(sys.prefix) / ".secrets-cache.json"
NOISY: Final = ("KeywordDetector", "IbmCloudIamDetector", "IbmCosHmacDetector", "SoftlayerDetector", "CloudantDetector")
"""Detectors that take every `password=` of a test, and every 32 or 44 letters, for a secret."""

SKIPPED: Final = re.compile(
    r"(^|/)(_gen|gen|node_modules|vendor|screenshots|results)/|(package-lock\.json|go\.sum|\.png|\.lock|LICENSE)$"
)
"""Generated, of others, or no text."""

_OUR_KEY: Final = re.compile(r"rlk_[a-z0-9]{1,12}_[0-9A-Za-z]{16}_[0-9A-Za-z]{33}")


class Finding(NamedTuple):
    """What looks like a secret."""

    path: str
    line: int
    kind: str
    digest: str


def tracked() -> list[str]:
    """All files that may hold one, relative to the root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [name for name in listed.split("\0") if name and not SKIPPED.search(name) and (ROOT / name).is_file()]


def scan(names: Sequence[str]) -> Iterator[Finding]:
    """What is found in these files, which may also lie elsewhere. What was scanned before is remembered by content."""
    digests = {name: sha1((ROOT / name).read_bytes()).hexdigest() for name in names}
    try:
        remembered: dict[str, list[tuple[int, str, str]]] = json.loads(CACHE.read_text())
    except (OSError, ValueError):
        remembered = {}
    fresh = [name for name in names if digests[name] not in remembered]
    for name, found in _scan(fresh).items():
        remembered[digests[name]] = found
    CACHE.write_text(json.dumps(remembered))
    for name in names:
        for line, kind, digest in remembered[digests[name]]:
            yield Finding(name, line, kind, digest)


def _scan(names: Sequence[str]) -> dict[str, list[tuple[int, str, str]]]:
    """The line, kind and digest of each finding in each of these files."""
    found: dict[str, list[tuple[int, str, str]]] = {name: [] for name in names}
    inside = [name for name in names if not Path(name).is_absolute()]
    outside = [Path(name) for name in names if Path(name).is_absolute()]
    for folder, files in [(ROOT, inside), *((path.parent, [path.name]) for path in outside)]:
        for path, secrets in _detect(folder, files).items():
            name = path if folder == ROOT else str(folder / path)
            found[name] += [(secret["line_number"], secret["type"], secret["hashed_secret"]) for secret in secrets]
    for name in names:
        for number, line in enumerate((ROOT / name).read_text(errors="replace").splitlines(), start=1):
            found[name] += [
                (number, "API key of this service", sha1(text.encode()).hexdigest())
                for text in _OUR_KEY.findall(line)
                if ApiKey.parse(text) is not None
            ]
    return found


def _detect(folder: Path, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """What detect-secrets reports on files of this folder. It leaves out, without a word, those that lie elsewhere."""
    if not names:
        return {}
    options = [word for detector in NOISY for word in ("--disable-plugin", detector)]
    command = [str(SCANNER), "scan", "--all-files", "--no-verify", *options, *names]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=True, text=True)
    results: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)["results"]
    return results


def main(arguments: Sequence[str]) -> int:
    """Run as described in the module's docstring."""
    allow = list(arguments) == ["--allow"]
    found = sorted(set(scan(tracked() if allow or not arguments else arguments)))
    if allow:
        KNOWN.write_text("".join(sorted({f"{finding.digest} {finding.path}\n" for finding in found})))
        return 0
    known = set(KNOWN.read_text().splitlines())
    fresh = [finding for finding in found if f"{finding.digest} {finding.path}" not in known]
    for finding in fresh:
        print(f"{finding.path}:{finding.line}: {finding.kind}", file=sys.stderr)
    if fresh:
        print(
            "these look like secrets: remove them and have them replaced where they are valid; if they are none, run "
            "`.venv/bin/python .ci/find_secrets.py --allow`",
            file=sys.stderr,
        )
    return 1 if fresh else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
