"""Stock gRPC clients, all of which can make the same calls."""

import asyncio
import fcntl
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import grpc

from transport.conformance.call import CallSpec, Outcome

DETAILS = "grpc-status-details-bin"
HERE = Path(__file__).parent


class Client(Protocol):
    """A gRPC client."""

    def call(self, spec: CallSpec) -> Outcome:
        """Make a call and return its outcome."""
        ...

    def close(self) -> None:
        """Close its connections."""
        ...


class PythonClient:
    """grpcio, with threads."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)

    def call(self, spec: CallSpec) -> Outcome:
        """Make a call and return its outcome."""
        over = threading.Event()
        call = self._channel.stream_stream(spec.method)(
            _messages(spec, over),
            timeout=spec.timeout,
            metadata=tuple(spec.metadata.items()),
            compression=_compression(spec),
        )
        if spec.cancel_after:
            threading.Timer(spec.cancel_after, call.cancel).start()
        answers: list[bytes] = []
        try:
            answers.extend(call)
        except grpc.RpcError:
            pass  # the call itself has the status
        finally:
            over.set()
        return _outcome(call.code(), call.details(), call.trailing_metadata(), answers)

    def close(self) -> None:
        """Close its connections."""
        self._channel.close()


class PythonAioClient:
    """grpcio, with asyncio."""

    def __init__(self, address: str) -> None:
        self._runner = asyncio.Runner()
        self._channel = self._runner.run(self._open(address))

    async def _open(self, address: str) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(address)

    def call(self, spec: CallSpec) -> Outcome:
        """Make a call and return its outcome."""
        return self._runner.run(self._call(spec))

    async def _call(self, spec: CallSpec) -> Outcome:
        if not spec.stream and len(spec.messages) == 1:
            return await self._call_unary(spec)
        call = self._channel.stream_stream(spec.method)(
            timeout=spec.timeout, metadata=tuple(spec.metadata.items()), compression=_compression(spec)
        )
        writing = asyncio.create_task(self._write(call, spec))
        if spec.cancel_after:
            asyncio.get_running_loop().call_later(spec.cancel_after, call.cancel)
        answers: list[bytes] = []
        try:
            async for answer in call:
                answers.append(answer)  # noqa: PERF401 those before an error count
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass  # the call itself has the status
        await asyncio.gather(writing, return_exceptions=True)
        return _outcome(await call.code(), await call.details(), await call.trailing_metadata(), answers)

    async def _call_unary(self, spec: CallSpec) -> Outcome:
        # A stream whose writing is overtaken by the server's refusal is INTERNAL to this library.
        call = self._channel.unary_unary(spec.method)(
            spec.messages[0],
            timeout=spec.timeout,
            metadata=grpc.aio.Metadata(*spec.metadata.items()),
            compression=_compression(spec),
        )
        if spec.cancel_after:
            asyncio.get_running_loop().call_later(spec.cancel_after, call.cancel)
        answers: list[bytes] = []
        with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):  # the call itself has the status
            answers.append(await call)
        return _outcome(await call.code(), await call.details(), await call.trailing_metadata(), answers)

    async def _write(self, call: grpc.aio.StreamStreamCall, spec: CallSpec) -> None:
        for message in spec.messages:
            await call.write(message)
        if not (spec.stream and spec.cancel_after):
            await call.done_writing()

    def close(self) -> None:
        """Close its connections."""
        self._runner.run(self._channel.close())
        self._runner.close()


class ProgramClient:
    """A client in another language: a program that reads calls and prints outcomes, a line of JSON each."""

    def __init__(self, *program: str) -> None:
        self._process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, spec: CallSpec) -> Outcome:
        """Make a call and return its outcome."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(spec.to_json()) + "\n")
        self._process.stdin.flush()
        return Outcome.from_json(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """Close its connections."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended: the call that saw that has failed
            self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def go_client(address: str, folder: Path) -> ProgramClient:
    """grpc-go."""
    program = folder / "client"
    subprocess.run(["go", "build", "-o", program, "."], cwd=HERE / "go", check=True)
    return ProgramClient(str(program), address)


def node_client(address: str) -> ProgramClient:
    """@grpc/grpc-js, which the first of the processes that test at the same time installs."""
    with (HERE / "node" / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (HERE / "node" / "node_modules" / ".package-lock.json").exists():  # npm writes that last
            subprocess.run(["npm", "ci", "--silent"], cwd=HERE / "node", check=True)
    return ProgramClient("node", str(HERE / "node" / "client.js"), address)


def installed() -> list[str]:
    """The clients that can be run here: Python's always, the others where their toolchain is."""
    others = {"go": ("go",), "node": ("node", "npm")}
    return ["python", "python-aio", *(name for name, needs in others.items() if all(map(shutil.which, needs)))]


def _messages(spec: CallSpec, over: threading.Event) -> Iterator[bytes]:
    yield from spec.messages
    if spec.stream and spec.cancel_after:
        over.wait()


def _compression(spec: CallSpec) -> grpc.Compression:
    return grpc.Compression.Gzip if spec.gzip else grpc.Compression.NoCompression


def _outcome(
    code: grpc.StatusCode,
    message: str | None,
    trailers: grpc.aio.Metadata | tuple[tuple[str, bytes], ...] | None,
    answers: list[bytes],
) -> Outcome:
    details = dict(trailers or ()).get(DETAILS, b"")
    return Outcome(code.value[0], message or "", details, answers)
