"""The cost of a decision in Redis: by script or by function, with usage or without, alone or 64 to a script.

    python -m bench.script_cost

Starts its own Valkey. Prints microseconds of the server's CPU per decision, the minimum of seven runs (the rest
is noise of other programs): of the script alone (`INFO commandstats`) and of the whole process (`INFO cpu`), which
includes reading commands and writing replies. All are sent 64 decisions at a time, so that they make equally many
system calls, but for those that are sent one a millisecond, as calls come that wait for nobody: then neither the
processor's caches nor its clock are warm. Last it prints what a bucket takes.
"""

import random
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hiredis
import redis

from ratelimit_service.buckets.redis.connect import USAGE_BYTES
from ratelimit_service.buckets.redis.script import ONE_TAG, Encoded, Encoder, bucket_key, charge_scripts, usage_key
from ratelimit_service.decision.charge import Bucket, Charge, Counted
from ratelimit_service.decision.limit import MICRO, Limit, Quota, TokenBucket, Window
from ratelimit_service.decision.usage import Series
from ratelimit_service.devstores.valkey import EmbeddedValkey

DECISIONS = 25_600
TOGETHER = 64
RUNS = 7
PAUSED = 1_000
NAME = "0" * 24
"""Of a bucket, as long as all are."""

Kind = Callable[[Encoder, Encoded], bytes]
"""Makes the command of a batch."""


def by_script(encoder: Encoder, batch: Encoded) -> bytes:
    """As the service does."""
    return encoder.evalsha(batch)


def by_function(_: Encoder, batch: Encoded) -> bytes:
    """As it would by `library`."""
    return b"*%d\r\n$5\r\nFCALL\r\n$6\r\ncharge\r\n%b" % (batch.words + 2, batch.arguments)


def library() -> str:
    """The script as the only function of a library."""
    text = charge_scripts()[0].text.decode().partition("\n")[2]
    return f"#!lua name=charge\nredis.register_function('charge', function(KEYS, ARGV)\n{text}\nend)"


class Server:
    """A Valkey and one connection to it."""

    def __init__(self, url: str, port: int) -> None:
        self.client = redis.Redis.from_url(url)
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._reader = hiredis.Reader()

    def cost(self, commands: list[bytes], replies: int, pause: float) -> tuple[float, float]:
        """Send the commands one after another, each with REPLIES replies, and seconds of PAUSE between them.

        Returns CPU seconds: script, process.
        """
        self.client.config_resetstat()
        before = self._cpu()
        for command in commands:
            self._socket.sendall(command)
            for _ in range(replies):
                self._reply()
            time.sleep(pause)
        after = self._cpu()
        stats = self.client.info("commandstats")
        script = sum(stats.get(f"cmdstat_{name}", {}).get("usec", 0) for name in ("evalsha", "fcall"))
        return script / 1e6, after - before

    def bytes_of(self, command: bytes, key: bytes) -> int:
        """What the server has for KEY once it has run COMMAND."""
        self.flush()
        self.call(command)
        return int(self.client.memory_usage(key) or 0)

    def call(self, command: bytes) -> object:
        """Send one command and return its reply."""
        self._socket.sendall(command)
        return self._reply()

    def flush(self) -> None:
        """Delete everything but the scripts."""
        self.client.flushdb()

    def close(self) -> None:
        """Close the connections."""
        self._socket.close()
        self.client.close()

    def _reply(self) -> object:
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(1 << 20))
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def _cpu(self) -> float:
        info = self.client.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])


def measure(server: Server, kind: Kind, charges: Callable[[], Iterator[Charge]], batch: int, pause: float = 0.0) -> str:
    """The figures of one line: microseconds per decision."""
    encoder = Encoder(charge_scripts(), request_window=30, usage_bytes=USAGE_BYTES)
    usage = usage_key(ONE_TAG)
    server.call(encoder.eval(encoder.encode([], usage)))
    scripts, processes = [], []
    decisions = PAUSED if pause else DECISIONS
    together = 1 if pause else TOGETHER
    for _ in range(RUNS):
        server.flush()
        source = charges()
        commands = []
        for _ in range(decisions // together):
            group = [next(source) for _ in range(together)]
            parts = [group] if batch == together else [[charge] for charge in group]
            commands.append(b"".join(kind(encoder, encoder.encode(part, usage)) for part in parts))
        script, process = server.cost(commands, together // batch, pause)
        scripts.append(script / decisions * 1e6)
        processes.append(process / decisions * 1e6)
    return f"{min(scripts):8.2f} {min(processes):8.2f}"


def main() -> None:
    """Print the table."""
    bucket = Limit("bucket", TokenBucket(20, 10, MICRO))
    quota = Limit("quota", Quota(10_000, Window.DAY))

    def over(keys: int, *limits: Limit, counted: bool = False) -> Callable[[], Iterator[Charge]]:
        buckets = [
            tuple(Bucket(f"{number:018x}{limit.name}", number % 256, limit) for limit in limits)
            for number in range(keys)
        ]
        names = [limit.name for limit in limits]
        series = [
            (Counted(Series.of_key(f"{number:016d}", "orders.create", f"subject-{number}", "plan", names), 1),)
            for number in range(keys)
        ]

        def draw() -> Iterator[Charge]:
            choose = random.Random(1)  # noqa: S311  the same keys for each line
            while True:
                number = choose.randrange(keys)
                yield Charge(buckets[number], (1,) * len(limits), "", series[number] if counted else ())

        return draw

    with tempfile.TemporaryDirectory() as folder:
        valkey = EmbeddedValkey(Path(folder), options={"appendonly": "no"})
        valkey.start()
        server = Server(valkey.url, valkey.port)
        server.client.function_load(library())
        print(f"{'us of CPU per decision':52} {'script':>8} {'process':>8}")
        for what, keys, limits in (
            ("one limit, 10,000 keys", 10_000, (bucket,)),
            ("one limit, 64 keys", 64, (bucket,)),
            ("one limit, one key", 1, (bucket,)),
            ("bucket and quota, 10,000 keys", 10_000, (bucket, quota)),
        ):
            for name, kind, counted in (
                ("by script", by_script, False),
                ("by function", by_function, False),
                ("by script, counted", by_script, True),
            ):
                charges = over(keys, *limits, counted=counted)
                for batch in (1, TOGETHER):
                    line = measure(server, kind, charges, batch)
                    print(f"{what}, {name}, {batch} at once".ljust(52), line, flush=True)
                line = measure(server, kind, charges, 1, pause=0.001)
                print(f"{what}, {name}, 1 a millisecond".ljust(52), line, flush=True)
        encoder = Encoder(charge_scripts(), request_window=30, usage_bytes=USAGE_BYTES)
        one = Bucket(NAME, 0, bucket)
        command = encoder.evalsha(encoder.encode([Charge((one,), (1,))], usage_key(ONE_TAG)))
        print(f"bytes of a bucket: {server.bytes_of(command, bucket_key(one))}")
        server.close()
        valkey.stop()


if __name__ == "__main__":
    main()
