"""The cost of a decision in Redis: one string or one hash per bucket, with usage or without, alone or 64 to a script.

    python -m bench.script_cost

Starts its own Valkey. Prints microseconds of the server's CPU per decision, the minimum of seven runs (the rest
is noise of other programs): of the script alone (`INFO commandstats`) and of the whole process (`INFO cpu`), which
includes reading commands and writing replies. Both kinds of calls are sent 64 decisions at a time, so that both make
equally many system calls.
"""

import random
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hiredis
import redis

from ratelimit_service.buckets.redis.connect import USAGE_BYTES
from ratelimit_service.buckets.redis.script import ONE_TAG, Encoder, charge_scripts, usage_key
from ratelimit_service.decision.charge import Bucket, Charge, Counted
from ratelimit_service.decision.limit import MICRO, Limit, Quota, TokenBucket, Window
from ratelimit_service.decision.usage import Series
from ratelimit_service.devstores.valkey import EmbeddedValkey

DECISIONS = 25_600
TOGETHER = 64
RUNS = 7

# The same state as lua/state.lua, kept as a hash.
HASH = """
local stored = {}
local used, at, keep, part, per = {}, {}, {}, {}, {}
local wide
local function read(k)
  local state = redis.call('HMGET', KEYS[k], 'used', 'at', 'keep', 'part', 'per')
  used[k], at[k], keep[k] = tonumber(state[1]) or 0, tonumber(state[2]) or 0, tonumber(state[3]) or 0
  part[k], per[k] = tonumber(state[4]) or 0, tonumber(state[5]) or 1
end
local function write(k)
  local function whole(number) return string.format('%.0f', number) end
  redis.call('HSET', KEYS[k], 'used', whole(used[k]), 'at', whole(at[k]), 'keep', whole(keep[k]))
  if part[k] > 0 then redis.call('HSET', KEYS[k], 'part', whole(part[k]), 'per', whole(per[k])) end
  redis.call('PEXPIRE', KEYS[k], whole(math.ceil((keep[k] - now) / 1000) + 60000))
end
"""


class Server:
    """A Valkey and one connection to it."""

    def __init__(self, url: str, port: int) -> None:
        self._client = redis.Redis.from_url(url)
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._reader = hiredis.Reader()

    def cost(self, commands: list[bytes], replies: int) -> tuple[float, float]:
        """Send the commands one after another, each with REPLIES replies. Returns CPU seconds: script, process."""
        self._client.config_resetstat()
        before = self._cpu()
        for command in commands:
            self._socket.sendall(command)
            for _ in range(replies):
                self._reply()
        after = self._cpu()
        return self._client.info("commandstats")["cmdstat_evalsha"]["usec"] / 1e6, after - before

    def call(self, command: bytes) -> object:
        """Send one command and return its reply."""
        self._socket.sendall(command)
        return self._reply()

    def flush(self) -> None:
        """Delete everything but the scripts."""
        self._client.flushdb()

    def close(self) -> None:
        """Close the connections."""
        self._socket.close()
        self._client.close()

    def _reply(self) -> object:
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(1 << 20))
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def _cpu(self) -> float:
        info = self._client.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])


def measure(server: Server, state: str | None, charges: Callable[[], Iterator[Charge]], batch: int) -> str:
    """The figures of one line: microseconds per decision."""
    encoder = Encoder(charge_scripts(state=state), request_window=30, usage_bytes=USAGE_BYTES)
    usage = usage_key(ONE_TAG)
    server.call(encoder.eval(encoder.encode([], usage)))
    scripts, processes = [], []
    for _ in range(RUNS):
        server.flush()
        source = charges()
        commands = []
        for _ in range(DECISIONS // TOGETHER):
            group = [next(source) for _ in range(TOGETHER)]
            parts = [group] if batch == TOGETHER else [[charge] for charge in group]
            commands.append(b"".join(encoder.evalsha(encoder.encode(part, usage)) for part in parts))
        script, process = server.cost(commands, TOGETHER // batch)
        scripts.append(script / DECISIONS * 1e6)
        processes.append(process / DECISIONS * 1e6)
    return f"{min(scripts):8.2f} {min(processes):8.2f}"


def main() -> None:
    """Print the table."""
    bucket = Limit("bucket", TokenBucket(20, 10, MICRO))
    quota = Limit("quota", Quota(10_000, Window.DAY))

    def over(keys: int, *limits: Limit, counted: bool = False) -> Callable[[], Iterator[Charge]]:
        buckets = [
            tuple(Bucket(f"{number:020x}.{limit.name}", number % 256, limit) for limit in limits)
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
        print(f"{'us of CPU per decision':42} {'script':>8} {'process':>8}")
        for what, keys, limits in (
            ("one limit, 10,000 keys", 10_000, (bucket,)),
            ("one limit, 64 keys", 64, (bucket,)),
            ("one limit, one key", 1, (bucket,)),
            ("bucket and quota, 10,000 keys", 10_000, (bucket, quota)),
        ):
            for name, state, counted in (("string", None, False), ("counted", None, True), ("hash", HASH, False)):
                charges = over(keys, *limits, counted=counted)
                for batch in (1, TOGETHER):
                    print(f"{what}, {name}, {batch:2} to a script".ljust(52), measure(server, state, charges, batch))
        server.close()
        valkey.stop()


if __name__ == "__main__":
    main()
