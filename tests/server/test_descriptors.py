"""The limit of descriptors, of which each connection takes one."""

import subprocess
import sys

PROGRAM = """
import resource
from pathlib import Path
from ratelimit_service.server.run import allow_descriptors
from ratelimit_service.transport.envoy.config import EnvoyOptions, envoy_config
resource.setrlimit(resource.RLIMIT_NOFILE, (500, 1_000))
allow_descriptors()
config = envoy_config(EnvoyOptions("a:b", ["/x"], "127.0.0.1", 1, Path("/a"), Path("/b"), 60, 16, None))
monitor = config["overload_manager"]["resource_monitors"][0]["typed_config"]
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], monitor["max_active_downstream_connections"])
"""


def test_connections_leave_descriptors_for_the_stores() -> None:
    """A server uses all that the system allows, and an Envoy accepts no more connections than that leaves."""
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["1000", "744"]
