"""The guides under docs/guides: every command in them that needs no cluster works."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import yaml

from fixtures.counted import counted
from fixtures.pages import ROOT, SCRIPTS, Checkout, blocks
from fixtures.postgres import OwnPostgres
from fixtures.served import Server
from fixtures.valkey import StartValkey
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.devstores.postgres import _programs
from ratelimit_service.management.tokens import Role

GUIDES = ROOT / "docs" / "guides"
PAGES = [*sorted(GUIDES.glob("*.md")), *(ROOT / "deploy" / name / "README.md" for name in ("istio", "envoy-gateway"))]


def run(script: str, folder: Path, **variables: str) -> str:
    """Paste commands into a shell. Returns what they print."""
    unset = {name: value for name, value in os.environ.items() if not name.startswith("RATELIMIT_")}
    path = os.pathsep.join((str(SCRIPTS), str(_programs()), os.environ["PATH"]))
    done = subprocess.run(
        ["sh", "-eux"],
        input=script,
        cwd=folder,
        env=unset | {"PATH": path} | variables,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem if page.stem != "README" else page.parent.name)
def test_named_files_exist(page: Path) -> None:
    """Every file that a command names is there. Links are checked with those of all pages."""
    for name in re.findall(r"(?:docs|deploy|tests|bench)/[\w/.-]+\.(?:yaml|py|md)", page.read_text()):
        assert (ROOT / name).exists(), name


def test_the_index_has_every_guide() -> None:
    """Each page is linked from the index."""
    index = (GUIDES / "README.md").read_text()
    assert [
        page.name for page in GUIDES.glob("*.md") if page.name != "README.md" and f"({page.name})" not in index
    ] == []


def pasted(checkout: Checkout, page: str) -> str:
    """What a shell prints that all commands of a guide are pasted into."""
    done = checkout.run("sh", "-eux", stdin="".join(blocks(f"docs/guides/{page}", "sh")))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_from_limitador(checkout: Checkout) -> None:
    """The commands work, and the rules decide as the limits that they come from."""
    printed = pasted(checkout, "from-limitador.md")
    assert printed.count("denied, in domain storefront") == 2
    assert printed.count("allowed, in domain storefront") == 2
    limits = yaml.safe_load((GUIDES / "limitador" / "limits.yaml").read_text())
    rules = (GUIDES / "limitador" / "rules.yaml").read_text()
    assert {limit["namespace"] for limit in limits} == {yaml.safe_load(rules)["domain"]}
    assert all(f"name: {limit['name']}, " in rules for limit in limits)


def test_from_redis_scripts(checkout: Checkout) -> None:
    """The commands work, and both limiters agree on each of the calls, as the page shows."""
    (shown,) = blocks("docs/guides/from-redis-scripts.md", "")
    assert shown in pasted(checkout, "from-redis-scripts.md")


def test_a_restore_by_the_guide(
    own_server: Callable[..., Server], own_postgres: OwnPostgres, valkey: StartValkey, tmp_path: Path
) -> None:
    """Backup and restore while a server decides: what is lost is what the page says, and limits go on as they were."""
    server = own_server("grpcio", database_url=own_postgres.server.url, redis_url=valkey().url)
    dump, restore, swap, revoked, _pepper, peppers_left, tokens = blocks("docs/guides/backup.md", "sh")
    variables = {"OWNER_URL": own_postgres.server.url.rpartition("/")[0], "RATELIMIT_TOKEN": server.tokens[Role.ADMIN]}
    plan = {"name": "yearly", "limits": [{"name": "all", "quota": {"amount": 10, "window": "YEAR"}}]}
    server.manage().ManagePlan(admin_pb2.ManagePlanRequest(create={"plan": plan}), metadata=server.as_admin)
    key_id, kept = server.key("yearly")
    revoked_id, was_revoked = server.key("wide")
    assert [decide(server, kept).allowed for _ in range(6)] == [True] * 6
    assert counted(server, key_id, 6) == (6, 0)
    server.close_channel()  # no process may be started beside its threads
    began = int(time.time())
    run(dump, tmp_path, **variables)
    revoke = admin_pb2.ManageKeyRequest(revoke={"key_id": revoked_id})
    server.manage().ManageKey(revoke, metadata=server.as_admin)
    _, later = server.key("wide")
    assert decide(server, later).allowed
    assert [decide(server, kept, "later").allowed for _ in range(2)] == [True] * 2
    assert counted(server, key_id, 8) == (8, 0)
    server.close_channel()
    run(restore + swap, tmp_path, **variables)
    within(20, lambda: decide(server, later).reason == CheckLimitResponse.KEY_UNKNOWN)
    within(5, lambda: decide(server, was_revoked).allowed)
    assert [decide(server, kept, "later").allowed for _ in range(3)] == [True, True, False]
    # 6 of the backup, and 3 since, of a resource whose number the restored tables do not have; 2 in between are lost.
    assert counted(server, key_id, 8, 1) == (8, 1)
    server.close_channel()
    run(
        revoked + tokens.replace("gateway-1", "gateway"),
        tmp_path,
        BACKUP_TIME=str(began),
        RATELIMIT_SERVER=server.address,
        RATELIMIT_DATABASE_URL=own_postgres.server.url,
        **variables,
    )
    within(5, lambda: decide(server, was_revoked).reason == CheckLimitResponse.KEY_REVOKED)
    assert run(peppers_left, tmp_path, **variables).startswith("1|")
    with psycopg.connect(own_postgres.server.url) as connection:
        losses = connection.execute("SELECT cause FROM usage_losses").fetchall()
    assert losses


def decide(server: Server, api_key: str, resource: str = "") -> CheckLimitResponse:
    """One decision."""
    request = CheckLimitRequest(api_key=api_key, resource=resource)
    return RateLimitServiceStub(server.channel).CheckLimit(request, timeout=5)


def within(seconds: float, holds: Callable[[], bool]) -> None:
    """Wait until something holds, for SECONDS at most."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.05)
