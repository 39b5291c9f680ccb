"""The embedded Valkey starts, keeps its state, and ends with its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import redis

from ratelimit_service.devstores.valkey import EmbeddedValkey, EmbeddedValkeyError

_ORPHAN_MAKER = """
import sys, time
from pathlib import Path
from ratelimit_service.devstores.valkey import EmbeddedValkey
server = EmbeddedValkey(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(60)
"""


def test_state_survives_a_restart(tmp_path: Path) -> None:
    """What was written before a stop must be there after the next start, on any port."""
    server = EmbeddedValkey(tmp_path)
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.set("kept", "yes")
    server.stop()
    server.start()
    with redis.Redis.from_url(server.url) as client:
        kept = client.get("kept")
    server.stop()
    assert kept == b"yes"


def test_a_folder_with_a_blank_in_its_name(tmp_path: Path) -> None:
    """It starts there, and keeps its state there."""
    server = EmbeddedValkey(tmp_path / "a folder" / "valkey")
    server.start()
    with redis.Redis.from_url(server.url) as client:
        assert client.config_get("dir") == {"dir": str(tmp_path / "a folder" / "valkey")}
    server.stop()


def test_others_cannot_read_it(tmp_path: Path) -> None:
    """Its folder belongs to its user alone, also one that an earlier version has made."""
    for folder in (tmp_path / "new", tmp_path / "old"):
        if folder.name == "old":
            folder.mkdir(mode=0o755)
        server = EmbeddedValkey(folder)
        server.start()
        server.stop()
        assert folder.stat().st_mode & 0o777 == 0o700


def test_never_evicts_and_listens_on_loopback_only(tmp_path: Path) -> None:
    """A bucket must not be evicted, and the server must not be reachable from the network."""
    server = EmbeddedValkey(tmp_path)
    server.start()
    with redis.Redis.from_url(server.url) as client:
        policy = client.config_get("maxmemory-policy")
    addresses = {c.laddr.ip for c in psutil.Process(server.pid).net_connections("tcp") if c.status == "LISTEN"}
    server.stop()
    assert policy == {"maxmemory-policy": "noeviction"}
    assert addresses == {"127.0.0.1"}


def test_ends_with_its_parent(tmp_path: Path) -> None:
    """A parent that is killed outright must not leave the server behind."""
    with subprocess.Popen([sys.executable, "-c", _ORPHAN_MAKER, str(tmp_path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"Valkey {pid} outlived its parent"
        time.sleep(0.02)


def test_a_taken_port_is_reported(tmp_path: Path) -> None:
    """A start on a port that is taken must fail with the port and the server's own error."""
    first = EmbeddedValkey(tmp_path / "first")
    first.start()
    second = EmbeddedValkey(tmp_path / "second", first.port)
    # The first server responds on that port. The second must notice that it is not itself.
    with pytest.raises(EmbeddedValkeyError, match=f"port {first.port}.*already in use"):
        second.start()
    first.stop()
