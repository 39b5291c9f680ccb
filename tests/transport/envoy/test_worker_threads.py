"""How busy Envoy's worker threads are."""

from pathlib import Path

from ratelimit_service.transport.envoy.worker_threads import WorkerThreads

SECOND = 10**9


def write(folder: Path, thread: str, name: str, run: int, waited: int) -> None:
    """The files that Linux has for a thread."""
    (folder / thread).mkdir(exist_ok=True)
    (folder / thread / "comm").write_text(f"{name}\n")
    (folder / thread / "schedstat").write_text(f"{run} {waited} 1\n")


def test_a_worker_that_is_never_idle(tmp_path: Path) -> None:
    """Running and waiting for a core count, of workers alone, since the last time."""
    now = 5 * SECOND
    write(tmp_path, "11", "wrk:worker_0", 100, 50)
    write(tmp_path, "12", "python", 0, 0)
    threads = WorkerThreads(tmp_path, lambda: now)
    threads.saturated()
    now += SECOND
    write(tmp_path, "11", "wrk:worker_0", 100 + SECOND // 2, 50)
    write(tmp_path, "12", "python", SECOND, 0)
    assert not threads.saturated()
    now += SECOND
    write(tmp_path, "11", "wrk:worker_0", 100 + SECOND, 50 + SECOND // 2)
    assert threads.saturated()


def test_what_cannot_be_known_is_taken_for_saturated(tmp_path: Path) -> None:
    """Without Linux's figures nothing keeps Envoy from refusing."""
    threads = WorkerThreads(tmp_path / "none", lambda: SECOND)
    assert threads.saturated()
    assert threads.saturated()
