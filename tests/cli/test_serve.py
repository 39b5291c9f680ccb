"""`ratelimit-service migrate` and `serve`: from an empty database to a served call, as in production."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fixtures.dev_server import PROGRAM, free_address
from ratelimit_service.decision.api_key import Peppers
from ratelimit_service.postgres import schema

Run = Callable[..., subprocess.CompletedProcess[str]]
PLAN = "{name: p, limits: [{name: q, quota: {amount: 2, window: YEAR}}]}"


@pytest.fixture
def production(empty_database_url: Callable[[], str], valkey_url: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a server with an empty database."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("RATELIMIT_")}
    return others | {
        "RATELIMIT_DATABASE_URL": empty_database_url(),
        "RATELIMIT_REDIS_URL": valkey_url,
        "RATELIMIT_PEPPERS": Peppers.generate(),
        "RATELIMIT_LISTEN": free_address(),
        "RATELIMIT_OPERATIONS_LISTEN": "",
        "RATELIMIT_DATA_DIR": str(tmp_path),
    }


@pytest.fixture
def run(production: dict[str, str]) -> Run:
    """Run a command in that environment."""

    def command(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(PROGRAM), *arguments],
            env=production | variables,
            input=stdin,
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )

    return command


@pytest.fixture
def served(production: dict[str, str], run: Run, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server with two workers, and an admin token for it."""
    assert run("migrate").returncode == 0
    token = json.loads(run("admin-tokens", "create", "ops", "--role", "admin", "--json").stdout)["token"]
    log = tmp_path / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(PROGRAM), "serve", "--transport", "grpcio", "--workers", "2"],
            env=production,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + 60
    while "ratelimit-service serves on" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    yield process, token
    if process.poll() is None:
        process.terminate()
        process.wait(30)


def test_migrate_reports_what_it_does(run: Run) -> None:
    """An empty database is migrated to the newest revision once; a dry run only reports that it would be."""
    head = schema.head()
    assert run("migrate", "--dry-run").stdout == f"the schema is at revision none and would be migrated to {head}\n"
    assert run("migrate").stdout == f"the schema was migrated from revision none to {head}\n"
    assert run("migrate").stdout == f"the schema is already at revision {head}\n"


def test_a_served_call(served: tuple[subprocess.Popen[bytes], str], run: Run, production: dict[str, str]) -> None:
    """With a schema, a token and a plan, calls are decided; SIGTERM stops the server with exit code 0."""
    process, token = served
    there = {"RATELIMIT_SERVER": production["RATELIMIT_LISTEN"], "RATELIMIT_TOKEN": token}
    made = run("plans", "create", "-", stdin=PLAN, **there)
    assert made.returncode == 0, made.stderr
    created = json.loads(run("keys", "create", "--plan", "p", "--subject", "s", "--json", **there).stdout)
    exits = [run("check", created["secret"], **there).returncode for _ in range(3)]
    assert exits == [0, 0, 1]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("commands", "variables", "message"),
    [
        ([], {}, "the database's schema is at revision none"),
        (["migrate"], {}, "there is no token, so keys could not be managed"),
        ([], {"RATELIMIT_DATABASE_URL": ""}, "RATELIMIT_DATABASE_URL is not set"),
        ([], {"RATELIMIT_PEPPERS": ""}, "RATELIMIT_PEPPERS is not set"),
        ([], {"RATELIMIT_DATABASE_URL": "postgresql://u:hush@127.0.0.1:1/d"}, "Postgres is unavailable"),
        ([], {"RATELIMIT_LISTEN": "0.0.0.0:1"}, "0.0.0.0:1, which is beyond loopback: tokens and keys are sent"),
        (
            [],
            {"RATELIMIT_LISTEN": "[::]:1", "RATELIMIT_PROTECT_CHECKS": "false", "RATELIMIT_ALLOW_PLAINTEXT": "true"},
            "[::]:1, which is beyond loopback: everyone who can connect may request decisions",
        ),
    ],
    ids=["no schema", "no token", "no database", "no peppers", "database down", "plain text", "anonymous"],
)
def test_refuses_to_start_with_an_explanation(
    run: Run, commands: list[str], variables: dict[str, str], message: str
) -> None:
    """A server that could not work does not start: it reports what is missing and what to do, and exits with 4."""
    for command in commands:
        assert run(command).returncode == 0
    done = run("serve", "--transport", "grpcio", **variables)
    assert done.returncode == 4
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "hush" not in done.stderr


def test_commands_without_a_database_report_it(run: Run) -> None:
    """Commands that need Postgres name the setting that is missing, or why it cannot be reached."""
    for command in (["migrate"], ["admin-tokens", "list"]):
        missing = run(*command, RATELIMIT_DATABASE_URL="")
        assert (missing.returncode, missing.stderr[:37]) == (2, "RATELIMIT_DATABASE_URL is not set, an")
        unreachable = run(*command, RATELIMIT_DATABASE_URL="postgresql://u:hush@127.0.0.1:1/d")
        assert unreachable.returncode == 4
        assert "Connection refused" in unreachable.stderr
        assert "hush" not in unreachable.stderr
        wrong = run(*command, RATELIMIT_DATABASE_URL="mysql://u:hush@127.0.0.1:1/d")
        assert (wrong.returncode, "the database URL is malformed" in wrong.stderr) == (2, True)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=test"
    extension = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key]
    subprocess.run([*request.split(), *extension], check=True, capture_output=True)
    return certificate, key


def test_a_server_with_tls(
    certificate: tuple[Path, Path], production: dict[str, str], request: pytest.FixtureRequest
) -> None:
    """A server with TLS is called at an https address with its CA, and never in plain text."""
    production["RATELIMIT_TLS_CERTIFICATE"], production["RATELIMIT_TLS_KEY"] = map(str, certificate)
    _, token = request.getfixturevalue("served")
    run: Run = request.getfixturevalue("run")
    address = production["RATELIMIT_LISTEN"]
    ours = {"RATELIMIT_SERVER_CA": str(certificate[0]), "RATELIMIT_TOKEN": token}
    assert run("plans", "list", "--server", f"https://{address}", **ours).returncode == 0
    assert run("plans", "list", "--server", f"https://{address}", RATELIMIT_TOKEN=token).returncode == 4
    assert run("plans", "list", "--server", address, **ours).returncode == 4
    found = {each["subject"]: each for each in json.loads(run("doctor", "--json").stdout)}
    assert found["tls"]["severity"] == "ok"
