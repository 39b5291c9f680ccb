"""A process that the supervisor started, from both sides: how it is started, what it reports, and how it ends."""

import asyncio
import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from ratelimit_service.errors import StartupError
from ratelimit_service.logs import set_up_logging
from ratelimit_service.process_name import PROCESS_VARIABLE
from ratelimit_service.server.parent import die_with
from ratelimit_service.settings import Settings

_REPORT_VARIABLE: Final = "RATELIMIT_REPORT_FD"
_DRAIN_VARIABLE: Final = "RATELIMIT_DRAIN_FD"

_PROCESS: Final = "ratelimit_service.server.process"

_READY: Final = "ready"
_ERROR: Final = "error "
_BEAT: Final = "beat"
_REST: Final = "rest"

_BEAT_SECONDS: Final = 0.2
"""Between two reports of a process that it lives."""

STACKS: Final = signal.SIGUSR2
"""The signal on which a process writes the stacks of its threads to the log."""

_STACKS_SECONDS: Final = 0.1
"""For which it gets time to do so."""

_KILL_AFTER: Final = 5.0
"""Seconds that a process gets to end after SIGTERM, beside the time for its calls."""


async def start(  # noqa: PLR0913  all that a process has
    name: str,
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    on_ready: Callable[[], None] = lambda: None,
    inherited: Sequence[int] = (),
) -> "Child":
    """Start the `main` of MODULE as a process; ON_READY is called once it serves. Raises OSError.

    INHERITED are file descriptors that it has under the same numbers.

    In a session of its own, so that a terminal's Ctrl-C reaches the supervisor alone, which then drains. The module
    must tie itself to its parent's life with `die_with`; for that, the calling thread must be one that lasts.
    """
    report_read, report_write = os.pipe()
    drain_read, drain_write = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            _PROCESS,
            module,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            env={
                **environment,
                _REPORT_VARIABLE: str(report_write),
                _DRAIN_VARIABLE: str(drain_read),
                PROCESS_VARIABLE: name,
            },
            pass_fds=(report_write, drain_read, *inherited),
            start_new_session=True,
        )
    except BaseException:
        os.close(report_read)
        os.close(drain_write)
        raise
    finally:
        os.close(report_write)
        os.close(drain_read)
    return Child(name, process, report_read, drain_write, on_ready)


class Child:
    """The supervisor's side: one process, which reports when it serves, and drains by itself on SIGTERM."""

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        report_pipe: int,
        drain_pipe: int,
        on_ready: Callable[[], None],
    ) -> None:
        """REPORT_PIPE and DRAIN_PIPE are our ends of the pipes; they are closed when the process has ended."""
        self.name = name
        self.pid: int = process.pid
        self._process = process
        self._report_pipe = os.fdopen(report_pipe, "rb", buffering=0)
        self._drain_pipe = drain_pipe
        self._on_ready = on_ready
        self.beats: int | None = None
        """How often it has reported that it lives, None while it is not to: before it serves, and while it drains."""
        self._listening: asyncio.Task[None] | None = None
        self._ended = asyncio.create_task(self._wait())

    async def ready(self, within: float) -> None:
        """Wait until it serves. Raises StartupError if it reports an error, ends, or takes over WITHIN seconds."""
        try:
            async with asyncio.timeout(within):
                reports = await self._reports()
                line = await _next(reports)
        except TimeoutError:
            raise StartupError(f"{self.name} did not start within {within:.0f} seconds; see its log") from None
        if not line:
            code = await self.ended()
            raise StartupError(f"{self.name} ended while it started, with code {code}; see its log")
        if line.startswith(_ERROR):
            raise StartupError(line.removeprefix(_ERROR).strip())
        self.beats = 0
        self._listening = asyncio.create_task(self._listen(reports))
        self._on_ready()

    async def ended(self) -> int:
        """Wait until the process has ended. Returns its code, a negative signal number if a signal ended it."""
        return await asyncio.shield(self._ended)

    async def drain(self, within: float) -> None:
        """End it by SIGTERM, and by SIGKILL if that takes more than WITHIN seconds and a few."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(within + _KILL_AFTER):
                await self.ended()
        except TimeoutError:
            self.kill()
            await self.ended()

    def announce_drain(self) -> None:
        """Announce a drain by the pipe, which does not end the process."""
        if not self._ended.done():
            with suppress(BrokenPipeError):  # it has just ended
                os.write(self._drain_pipe, b"\n")

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)

    def kill_hung(self) -> None:
        """Have it write to the log where it stands, if it still can, and end it."""
        self._signal(STACKS)
        asyncio.get_running_loop().call_later(_STACKS_SECONDS, self.kill)

    def _signal(self, number: signal.Signals) -> None:
        if not self._ended.done():
            with suppress(ProcessLookupError):  # it has just ended
                self._process.send_signal(number)

    async def _reports(self) -> asyncio.StreamReader:
        reports = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reports), self._report_pipe)
        return reports

    async def _listen(self, reports: asyncio.StreamReader) -> None:
        """Count its reports until it rests or ends."""
        while (line := await _next(reports)) and self.beats is not None:
            self.beats = None if line.strip() == _REST else self.beats + 1

    async def _wait(self) -> int:
        code = await self._process.wait()
        os.close(self._drain_pipe)
        if self._listening is not None:
            self._listening.cancel()
        return code


async def _next(reports: asyncio.StreamReader) -> str:
    """The next line that a process reports, empty once it has ended."""
    return (await reports.readline()).decode("utf-8", "replace")


class SupervisorLink:
    """The child's side: what it reports to the supervisor, and what that announces."""

    def __init__(self) -> None:
        self._report_pipe = int(os.environ[_REPORT_VARIABLE])
        self._drain_pipe = int(os.environ[_DRAIN_VARIABLE])
        self._beating: asyncio.Task[None] | None = None

    def report_ready(self) -> None:
        """Report that this process serves, and from now on, as long as the running loop does, that it lives."""
        os.write(self._report_pipe, f"{_READY}\n".encode())
        os.set_blocking(self._report_pipe, False)
        self._beating = asyncio.create_task(self._beat())

    def rest(self) -> None:
        """Report that this process is about to end, and does not show that it lives any more."""
        if self._beating is not None:
            self._beating.cancel()
            self._write(_REST)

    def report_error(self, message: str) -> None:
        """Report why this process cannot start."""
        os.write(self._report_pipe, f"{_ERROR}{' '.join(message.split())}\n".encode())

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            self._write(_BEAT)

    def _write(self, report: str) -> None:
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(self._report_pipe, f"{report}\n".encode())

    def on_drain(self, callback: Callable[[], object]) -> None:
        """Call CALLBACK once, in the running loop, when the supervisor announces a drain."""
        loop = asyncio.get_running_loop()

        def drain() -> None:
            loop.remove_reader(self._drain_pipe)
            callback()

        loop.add_reader(self._drain_pipe, drain)


def run_child(main: Callable[[Settings, SupervisorLink], Coroutine[Any, Any, None]]) -> None:
    """Run MAIN in this process, until it returns or the parent, whose id is the first argument, ends.

    A StartupError that it raises is reported to the supervisor.
    """
    die_with(int(sys.argv[1]))
    write_stacks()
    settings = Settings()
    set_up_logging(settings.log_level, settings.log_format)
    supervisor = SupervisorLink()
    try:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(main(settings, supervisor))
    except StartupError as error:
        supervisor.report_error(str(error))
        raise SystemExit(1) from None


def write_stacks() -> None:
    """Have this process write the stacks of all its threads to the log when native code crashes, and on STACKS."""
    faulthandler.enable()
    write_stacks_on_request()


def write_stacks_on_request() -> None:
    """Have this process write the stacks of all its threads to the log on STACKS, which would end it otherwise."""
    faulthandler.register(STACKS)


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415 not on every platform

    return uvloop.new_event_loop()
