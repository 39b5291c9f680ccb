"""`ratelimit-service doctor`: its words for each fault."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from fixtures.dev_server import DevServer, free_address
from ratelimit_service.cli.doctor.command import examine
from ratelimit_service.decision.api_key import Peppers
from ratelimit_service.devstores.valkey import EmbeddedValkey
from ratelimit_service.postgres import migrate

Doctor = Callable[..., dict[str, tuple[str, str]]]


@pytest.fixture(scope="module")
def database_url(empty_database_url: Callable[[], str]) -> str:
    """A database that is migrated and has no token."""
    url = empty_database_url()
    migrate.upgrade(url)
    return url


@pytest.fixture
def doctor(database_url: str, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Examine settings that are right but for the given ones. Gives, for each thing, the last word on it."""
    for name in [name for name in os.environ if name.startswith("RATELIMIT_")]:
        monkeypatch.delenv(name)
    right = {
        "DATABASE_URL": database_url,
        "REDIS_URL": valkey_url,
        "PEPPERS": Peppers.generate(),
        "LISTEN": free_address(),
        "METRICS_LISTEN": "",
        "DATA_DIR": str(tmp_path),
        "TRANSPORT": "grpcio",
    }

    def look(**settings: str) -> dict[str, tuple[str, str]]:
        with monkeypatch.context() as environment:
            for name, value in (right | settings).items():
                environment.setenv(f"RATELIMIT_{name}", value)
            return {finding.thing: (finding.verdict.value, finding.words) for finding in examine(os.environ)}

    return look


def test_a_dev_server_is_well(dev_server: DevServer) -> None:
    """On the folder of a running dev server all is well, in one line per thing, and the exit code is 0."""
    done = dev_server.run("doctor")
    assert done.returncode == 0, done.stdout
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"ok"}
    assert f"a ratelimit-service runs on {dev_server.listen} and says that it is SERVING" in done.stdout


def test_a_fault_exits_with_1(dev_server: DevServer) -> None:
    """One fault among things that are well makes the exit code 1, and scripts can read what it is."""
    done = dev_server.run("doctor", "--json", RATELIMIT_PEPPERS="1:short")
    assert (done.returncode, done.stderr) == (1, "")
    faults = [found for found in json.loads(done.stdout) if found["verdict"] == "fault"]
    assert [found["thing"] for found in faults] == ["peppers"]


def test_a_missing_token_is_a_fault(doctor: Doctor) -> None:
    """Without any token a server would not start: doctor says how to make one; everything else is well."""
    found = doctor()
    assert {thing for thing, (verdict, _) in found.items() if verdict != "ok"} == {"tokens"}
    assert "admin-tokens create NAME --role admin" in found["tokens"][1]


@pytest.mark.parametrize(
    ("settings", "thing", "words"),
    [
        ({"DATABASE_URL": ""}, "postgres", "RATELIMIT_DATABASE_URL is not set; set it to postgresql://"),
        ({"DATABASE_URL": "mysql://u:hush@h/d"}, "postgres", "does not begin with postgresql://"),
        ({"DATABASE_URL": "postgresql://u:hush@127.0.0.1:1/d"}, "postgres", "Connection refused"),
        ({"DATABASE_URL": "postgresql://u:hush@no.invalid/d"}, "postgres", "failed to resolve host 'no.invalid'"),
        ({"REDIS_URL": ""}, "redis", "RATELIMIT_REDIS_URL is not set; set it to redis://"),
        (
            {"REDIS_URL": "http://u:hush@h"},
            "redis",
            "RATELIMIT_REDIS_URL: the bucket store's URL has the scheme 'http'",
        ),
        ({"REDIS_URL": "redis://u:hush@127.0.0.1:1/0"}, "redis", "127.0.0.1:1"),
        ({"PEPPERS": ""}, "peppers", "RATELIMIT_PEPPERS is not set; make one by"),
        ({"PEPPERS": "1:aHVzaA=="}, "peppers", "pepper version 1 has 4 bytes; it needs 32 or more"),
        ({"PEPPERS": "hush"}, "peppers", "pepper number 1 is not <version>:<base64>"),
        ({"WORKERS": "99"}, "settings", "RATELIMIT_WORKERS is '99': input should be less than or equal to 64"),
        (
            {"TRANSPORT": "back"},
            "settings",
            "RATELIMIT_TRANSPORT is 'back': input should be 'auto', 'grpcio' or 'envoy'",
        ),
        ({"LISTEN": "here"}, "port", "'here' is not an address; write host:port"),
        ({"METRICS_LISTEN": "127.0.0.1"}, "metrics port", "'127.0.0.1' is not an address"),
        ({"TLS_CERTIFICATE": "/nowhere.pem"}, "tls", "RATELIMIT_TLS_KEY is not set"),
        ({"TLS_CERTIFICATE": "/nowhere.pem", "TLS_KEY": "/nowhere.key"}, "tls", "there is no file /nowhere.pem"),
    ],
)
def test_each_fault_has_its_words(doctor: Doctor, settings: dict[str, str], thing: str, words: str) -> None:
    """A fault is told under the name of the thing, with what to do, and without the secret."""
    found = doctor(**settings)
    assert found[thing][0] == "fault"
    assert words in found[thing][1]
    assert "hush" not in json.dumps(found).replace("'hush'", "")


def test_a_misspelt_setting_is_a_warning(doctor: Doctor) -> None:
    """A variable that looks like a setting and is none is named with the one that was meant."""
    found = doctor(WORKRES="2", TOKEN="rlt_x")
    settings = found["settings"]
    assert settings == ("ok", "can be read")
    assert "RATELIMIT_WORKRES is no setting and is not read; did you mean RATELIMIT_WORKERS?" in found["variables"][1]


def test_a_missing_schema_is_a_fault(doctor: Doctor, empty_database_url: Callable[[], str]) -> None:
    """An empty database is told apart from one of another version, and both from one that is right."""
    url = empty_database_url()
    assert doctor(DATABASE_URL=url)["schema"] == ("fault", "there is none yet; run `ratelimit-service migrate`")
    migrate.upgrade(url)
    assert doctor(DATABASE_URL=url)["schema"][0] == "ok"
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'future'")
    verdict, words = doctor(DATABASE_URL=url)["schema"]
    assert (verdict, words.startswith("is at revision future, this program needs ")) == ("fault", True)


def test_a_missing_database_is_told(doctor: Doctor, database_url: str) -> None:
    """A server without the database that the URL names is a fault that names the database."""
    url = database_url.rpartition("/")[0] + "/absent"
    assert 'database "absent" does not exist' in doctor(DATABASE_URL=url)["postgres"][1]


def test_a_redis_that_evicts_is_a_warning(doctor: Doctor, valkey: Callable[..., EmbeddedValkey]) -> None:
    """A server that forgets buckets when it is full would admit too much, and doctor says which setting is wrong."""
    evicting = valkey(**{"maxmemory-policy": "allkeys-lru"})
    verdict, words = doctor(REDIS_URL=evicting.url)["redis"]
    assert verdict == "warning"
    assert words.startswith("its maxmemory-policy is allkeys-lru")


@pytest.fixture
def taken_address() -> Iterator[str]:
    """An address that somebody else listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_a_taken_port_is_a_fault(doctor: Doctor, taken_address: str) -> None:
    """A port that another program holds is named, for calls and for metrics."""
    found = doctor(LISTEN=taken_address)
    assert found["port"][0] == "fault"
    assert f"cannot listen on {taken_address}: Address already in use" in found["port"][1]
    found = doctor(METRICS_LISTEN=taken_address)
    assert "set RATELIMIT_METRICS_LISTEN to another one" in found["metrics port"][1]
