"""The flush under SIGKILL and SIGSTOP, at every statement and command: nothing is missing or counted twice."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from usage.flusher import LOST
from usage.world import (
    MINUTE,
    UsageWorld,
    leftovers,
    limit_totals,
    losses,
    of_key,
    of_rule,
    plan_totals,
    totals,
    write_segment,
)

TESTS = Path(__file__).parent.parent
SECONDS = 0.3
FULL = "RATELIMIT_SOAK" in os.environ
"""Whether every step is hit, as `make soak` does, and not only every sixth one of the flush itself."""

MINUTES_PER_DAY = 1_440


class Ended(NamedTuple):
    """How a process ended: its exit code, and the steps that it made, none if it was killed."""

    code: int
    steps: list[str]


class Flusher:
    """The program `usage.flusher`, which starts processes that flush."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = 0
        """The process that was started last."""

    def start(self, at: int = 0, signum: int = signal.SIGKILL) -> int:
        """Start a process that gets a signal before step AT (from 1; 0 is none). Returns its id."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{at} {int(signum)}\n")
        self._process.stdin.flush()
        self.pid = int(self._line())
        return self.pid

    def wait(self) -> Ended:
        """Wait until it has ended."""
        count, code = int(self._line()), int(self._line())
        return Ended(code, [self._line().strip() for _ in range(count)])

    def run(self, at: int = 0) -> Ended:
        """Run a process to its end, by SIGKILL before step AT."""
        self.start(at)
        return self.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the flusher ended"
        return line


@contextmanager
def flusher(world: UsageWorld) -> Iterator[Flusher]:
    """Run the program."""
    with subprocess.Popen(
        [sys.executable, "-m", "usage.flusher", world.redis_url, world.database_url, str(SECONDS)],
        cwd=TESTS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        program = Flusher(process)
        try:
            yield program
        finally:
            process.kill()
            if program.pid:
                with suppress(ProcessLookupError):  # it may be stopped, and would stay so
                    os.kill(program.pid, signal.SIGKILL)


class Truth:
    """What was counted so far, in segments of the store."""

    def __init__(self, world: UsageWorld) -> None:
        self._world = world
        self.rounds = 0

    def count(self) -> None:
        """Count something on another day, in two segments: one of a key and a rule, with a limit, and a late count."""
        self.rounds += 1
        day = MINUTE - self.rounds * MINUTES_PER_DAY
        client, number = self._world.client, 2 * self.rounds
        write_segment(
            client,
            {of_key("k1", "burst"): [5, 5, 2, 0, 0, 2], of_rule("edge", "a"): [1]},
            number=number - 1,
            minute=day,
        )
        late = b"%d\x1e" % (day - 61) + of_key("k2")
        write_segment(client, {of_key(f"new{self.rounds}"): [1], late: [3]}, number=number, minute=day + 1)

    def check(self) -> None:
        """Fail unless the archive has all of it once, at all levels, and the store has nothing left."""
        url, rounds = self._world.database_url, self.rounds
        for level in ("minute", "hour", "day"):
            assert totals(url, level) == {
                "k1": (5 * rounds, 2 * rounds, 5 * rounds, 0, 0),
                "k2": (3 * rounds, 0, 0, 0, 0),
                "a": (rounds, 0, 0, 0, 0),
                **{f"new{number}": (1, 0, 0, 0, 0) for number in range(1, rounds + 1)},
            }
            assert plan_totals(url, level) == {("free", ""): 11 * rounds, ("", "edge"): rounds}
            assert limit_totals(url, level) == {"burst": (2 * rounds, 0)}
        assert losses(url) == []
        assert leftovers(self._world.client) == {"segments": 0, "queues": 0, "bytes": 0}


async def test_killed_between_any_two_steps(world: UsageWorld) -> None:
    """Whatever step of a flush a SIGKILL prevents, the next leader completes it exactly."""
    truth = Truth(world)
    with flusher(world) as program:
        truth.count()
        whole = await asyncio.to_thread(program.run)
        truth.check()
        assert whole.code == 0
        for expected in (
            "INSERT INTO usage_segments",
            "ATTACH",
            "INTO flushed",
            "usage_plan_day",
            "key_last_used",
            "redis",
        ):
            assert any(expected in step for step in whole.steps), f"no step with {expected}: {whole.steps}"
        truth.count()
        steps = (await asyncio.to_thread(program.run)).steps  # without the partitions that the first one creates
        truth.check()
        first = next(at for at, step in enumerate(steps, start=1) if step.startswith("redis"))
        for at in range(1 if FULL else first, len(steps) + 1, 1 if FULL else 6):
            truth.count()
            killed = (await asyncio.to_thread(program.run, at)).code == -signal.SIGKILL
            assert killed or at > len(steps) - 8, "the flush has fewer steps now"
            assert (await asyncio.to_thread(program.run)).code == 0
            truth.check()


async def test_a_stopped_leader_writes_nothing_later(world: UsageWorld) -> None:
    """A leader that was stopped at any point of its flush, and goes on after another has led, changes nothing."""
    truth = Truth(world)
    with flusher(world) as stopped, flusher(world) as other:
        for _ in range(2):  # the first one creates partitions that later ones find
            truth.count()
            whole = await asyncio.to_thread(other.run)
        points = {
            name: next(at for at, step in enumerate(whole.steps, start=1) if name in step)
            for name in (
                "redis LRANGE",
                "SELECT true FROM leases",
                "INSERT INTO usage_segments",
                "INTO flushed",
                'INTO "usage_hour"',
            )
        }
        removal = max(at for at, step in enumerate(whole.steps, start=1) if step == "redis EVALSHA")
        points |= {"commit": removal - 3, "removal": removal}
        for at in points.values():
            truth.count()
            pid = stopped.start(at, signal.SIGSTOP)
            await asyncio.sleep(0.5)
            assert (await asyncio.to_thread(other.run)).code == 0
            truth.check()
            os.kill(pid, signal.SIGCONT)
            ended = await asyncio.to_thread(stopped.wait)
            assert ended.code in {0, LOST}
            truth.check()
