"""Large pages of the console, which shares its process with the probes: a server whose probes are late is restarted."""

import threading
import time

import pytest

from attacks.attacked import Target
from attacks.sizes import ATTACK_SECONDS, FULL
from attacks.test_pages import FILL
from console.browser import Browser
from operations.probe import ask
from ratelimit_service.management.tokens import Role

PROBE_SECONDS = 0.3 if FULL else 1.0
"""Within which a probe is answered. Orchestrators wait for a second, and restart after three that are late."""


@pytest.mark.parametrize("target", ["envoy"], indirect=True)
def test_large_pages_delay_no_probe(target: Target) -> None:
    """While admins edit and viewers read the rules of a domain with 1,000 rules, /healthz and /readyz are answered."""
    address = target.server.settings.operations_listen
    target.server.key("once")
    target.watch.execute(FILL[-1].replace("'paged'", "'edited'"))
    until, pages, failures = time.monotonic() + max(ATTACK_SECONDS, 2.0), [0], []

    def read_pages(role: Role) -> None:
        browser = Browser(f"http://{address}/console").sign_in(target.server.tokens[role])
        browser.client.timeout = 60
        while time.monotonic() < until:
            for path in ("/rules/edit?name=edited", "/rules/domain?name=edited", "/rules"):
                response = browser.client.get(f"http://{address}/console{path}")
                failures.extend([response.status_code] if response.status_code not in {200, 403} else [])
                pages[0] += 1
        browser.client.close()

    threads = [threading.Thread(target=read_pages, args=(role,)) for role in (Role.ADMIN, Role.ADMIN, Role.VIEWER)]
    for thread in threads:
        thread.start()
    slowest, asked = 0.0, 0
    while time.monotonic() < until:
        for path in ("/healthz", "/readyz"):
            began = time.monotonic()
            assert ask(address, path).status == 200
            slowest, asked = max(slowest, time.monotonic() - began), asked + 1
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert not failures
    assert pages[0] >= 3
    assert slowest < PROBE_SECONDS, (slowest, asked, pages)
    assert asked > 10
