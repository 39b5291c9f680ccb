"""The long form: `python -m fuzz.long RUNS FOLDER [NAME...]`, under atheris, one target after the other.

FOLDER keeps each target's corpus, to go on from, and its figures: runs, hangs, the slowest run, growth of memory. Exits
with 1 for a crash, whose input is in FOLDER with its traceback, for a hang of a second, and for growth.
"""

import atexit
import gc
import logging
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import atheris
import structlog

_HERE = "--here"

with atheris.instrument_imports(include=["ratelimit_service"]) if sys.argv[-1] == _HERE else nullcontext():
    from fuzz import calls, documents, texts
    from fuzz.harness import Measured

FRAMES = "frames"
"""The public port by frames, on real servers, which are attacked from seeds: `test_frames.py`."""

TARGETS = {target.name: target for target in [*texts.TARGETS, *documents.TARGETS, *calls.TARGETS]}


def fuzz_all(runs: int, folder: Path, names: list[str]) -> int:
    """Fuzz these targets, or all, each in a process of its own. Returns the exit code."""
    failed = []
    for name in names or [*TARGETS, FRAMES]:
        if name == FRAMES:
            failed += [FRAMES] * _fuzz_frames(runs)
            continue
        report, log = folder / f"{name}.txt", folder / f"{name}.log"
        folder.mkdir(parents=True, exist_ok=True)
        report.unlink(missing_ok=True)
        with log.open("wb") as output:
            command = [sys.executable, "-m", "fuzz.long", str(runs), str(folder), name, _HERE]
            subprocess.run(command, stdout=output, stderr=output, check=False)
        text = report.read_text() if report.exists() else ""
        if f"{runs:,} runs, 0 hangs" in text and "grew" not in text:
            sys.stdout.write(text)
        else:
            failed.append(name)
            sys.stdout.write(f"{name}: FAILED, see {log}; {text or 'no figures'}\n")
        sys.stdout.flush()
    return bool(failed)


def _fuzz_frames(runs: int) -> bool:
    """Attack both transports by frames. Returns whether that failed."""
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", str(Path(__file__).with_name("test_frames.py"))]
    environment = {**os.environ, "RATELIMIT_FUZZ_RUNS": str(runs)}
    code = subprocess.run(command, env=environment, check=False).returncode
    sys.stdout.write(f"{FRAMES}: {runs:,} runs on each transport in {time.monotonic() - started:,.0f} s, code {code}\n")
    return code != 0


def fuzz_here(runs: int, folder: Path, name: str) -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    target = TARGETS[name]
    corpus = folder / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    measured = Measured(target, runs, folder / f"{name}.txt")
    atexit.register(measured.write)
    gc.freeze()
    flags = [
        f"-max_len={target.max_bytes}",
        "-timeout=30",
        "-rss_limit_mb=4096",
        "-verbosity=0",
        f"-atheris_runs={runs}",
    ]
    atheris.Setup([sys.argv[0], *flags, f"-artifact_prefix={folder}/{name}-", str(corpus)], measured)
    atheris.Fuzz()


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[-1] == _HERE:
        fuzz_here(int(arguments[0]), Path(arguments[1]), arguments[2])
    else:
        sys.exit(fuzz_all(int(arguments[0]), Path(arguments[1]), arguments[2:]))
