"""`ratelimit-service doctor`: its report on each error."""

import json
import os
import re
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from redis import Redis

from faults.proxy import FaultProxy
from fixtures.dev_server import DevServer, free_address
from fixtures.served import Server
from ratelimit_service.cli.doctor.before_start import run_checks
from ratelimit_service.decision.api_key import Peppers
from ratelimit_service.devstores.valkey import EmbeddedValkey
from ratelimit_service.postgres import migrate
from server.certificates import Authority

Doctor = Callable[..., dict[str, tuple[str, str]]]


@pytest.fixture(scope="module")
def database_url(empty_database_url: Callable[[], str]) -> str:
    """A migrated database without a token."""
    url = empty_database_url()
    migrate.upgrade(url)
    return url


@pytest.fixture
def doctor(database_url: str, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Check settings that are valid except for the given ones. Returns the last finding on each subject."""
    for name in [name for name in os.environ if name.startswith("RATELIMIT_")]:
        monkeypatch.delenv(name)
    valid = {
        "DATABASE_URL": database_url,
        "REDIS_URL": valkey_url,
        "PEPPERS": Peppers.generate(),
        "LISTEN": free_address(),
        "OPERATIONS_LISTEN": "",
        "DATA_DIR": str(tmp_path),
        "TRANSPORT": "grpcio",
    }

    def check(**settings: str) -> dict[str, tuple[str, str]]:
        with monkeypatch.context() as environment:
            for name, value in (valid | settings).items():
                environment.setenv(f"RATELIMIT_{name}", value)
            findings = run_checks(os.environ)
            return {finding.subject: (finding.severity.value, finding.message) for finding in findings}

    return check


def test_a_dev_server_is_ok(dev_server: DevServer) -> None:
    """On the folder of a running dev server everything is ok, in one line per subject, and the exit code is 0."""
    done = dev_server.run("doctor")
    assert done.returncode == 0, done.stdout
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"ok"}
    assert f"a ratelimit-service runs on {dev_server.listen} and reports SERVING" in done.stdout


def test_an_error_exits_with_1(dev_server: DevServer) -> None:
    """A single error makes the exit code 1, and scripts can read what it is."""
    done = dev_server.run("doctor", "--json", RATELIMIT_PEPPERS="1:short")
    assert (done.returncode, done.stderr) == (1, "")
    errors = [found for found in json.loads(done.stdout) if found["severity"] == "error"]
    assert [found["subject"] for found in errors] == ["peppers"]


def test_a_missing_token_is_an_error(doctor: Doctor) -> None:
    """Without any token a server would not start: doctor reports how to create one; everything else is ok."""
    found = doctor()
    assert {subject for subject, (severity, _) in found.items() if severity != "ok"} == {"tokens"}
    assert "admin-tokens create NAME --role admin" in found["tokens"][1]


@pytest.mark.parametrize(
    ("settings", "subject", "message"),
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
        ({"PEPPERS": ""}, "peppers", "RATELIMIT_PEPPERS is not set; generate one with"),
        ({"PEPPERS": "1:aHVzaA=="}, "peppers", "pepper version 1 has 4 bytes; it needs 32 or more"),
        ({"PEPPERS": "hush"}, "peppers", "pepper number 1 is not <version>:<base64>"),
        ({"WORKERS": "99"}, "settings", "RATELIMIT_WORKERS is '99': input should be less than or equal to 64"),
        (
            {"TRANSPORT": "back"},
            "settings",
            "RATELIMIT_TRANSPORT is 'back': input should be 'auto', 'grpcio' or 'envoy'",
        ),
        ({"LISTEN": "here"}, "port", "'here' is not an address; write host:port"),
        ({"OPERATIONS_LISTEN": "127.0.0.1"}, "operations port", "'127.0.0.1' is not an address"),
        ({"ALERT_WEBHOOK_URL": "https://hush.test/hush"}, "webhook", "RATELIMIT_ALERT_WEBHOOK_SECRET has 0 characters"),
        ({"ALERT_WEBHOOK_URL": "http://hush.test/"}, "webhook", "it must begin with https://"),
        (
            {"OTLP_ENDPOINT": "http://u:hush@collector:4317"},
            "settings",
            "RATELIMIT_OTLP_ENDPOINT is 'http://u:***@collector:4317': write http://host:4317",
        ),
        ({"TLS_CERTIFICATE": "/nowhere.pem"}, "tls", "RATELIMIT_TLS_KEY is not set"),
        ({"TLS_CERTIFICATE": "/nowhere.pem", "TLS_KEY": "/nowhere.key"}, "tls", "no such file: /nowhere.pem"),
        ({"GATEWAY_CERTIFICATES": "gw.test"}, "tls", "clients need no certificate; set RATELIMIT_TLS_CLIENT_CA"),
        (
            {"GATEWAY_CERTIFICATES": "*.test"},
            "settings",
            "RATELIMIT_GATEWAY_CERTIFICATES is '*.test': '*.test': patterns",
        ),
    ],
)
def test_each_error_is_explained(doctor: Doctor, settings: dict[str, str], subject: str, message: str) -> None:
    """An error is reported under the name of its subject, with what to do, and without the secret."""
    found = doctor(**settings)
    assert found[subject][0] == "error"
    assert message in found[subject][1]
    assert "hush" not in json.dumps(found).replace("'hush'", "")


def test_a_misspelt_setting_is_a_warning(doctor: Doctor) -> None:
    """An unknown variable with the prefix of settings is reported with the setting that was probably meant."""
    found = doctor(WORKRES="2", TOKEN="rlt_x")
    assert found["settings"] == ("ok", "valid")
    assert "RATELIMIT_WORKRES: unknown setting, ignored; did you mean RATELIMIT_WORKERS?" in found["variables"][1]


def test_a_renamed_setting_is_a_warning(doctor: Doctor) -> None:
    """A variable of an earlier version is reported with what to write instead, and not as a misspelt one."""
    found = doctor(METRICS_LISTEN="127.0.0.1:9999")
    assert found["variables"] == (
        "warning",
        "RATELIMIT_METRICS_LISTEN: renamed, ignored; write RATELIMIT_OPERATIONS_LISTEN=127.0.0.1:9999",
    )


@pytest.mark.parametrize("name", ["OPERATIONS_LISTEN", "CONSOLE_LISTEN"])
def test_a_console_without_tls_is_a_warning(doctor: Doctor, name: str) -> None:
    """Beyond loopback the console is off without a certificate, on either port; on loopback it needs none."""
    address = free_address()
    assert "console" not in doctor(**{name: address})
    severity, message = doctor(**{name: address.replace("127.0.0.1", "0.0.0.0")})["console"]
    assert severity == "warning"
    assert f"RATELIMIT_{name} is 0.0.0.0:" in message
    assert "beyond loopback the console needs TLS; set RATELIMIT_TLS_CERTIFICATE" in message
    files = {"TLS_CERTIFICATE": "/nowhere.pem", "TLS_KEY": "/nowhere.key"}
    assert "console" not in doctor(**{name: "0.0.0.0:0"}, **files)


def test_what_is_open_is_reported(doctor: Doctor) -> None:
    """A line says who may do what. What a server refuses is an error, what a setting allows is a warning."""
    address = free_address()
    assert doctor(LISTEN=address)["open"] == (
        "ok",
        f"{address} plain text: decisions for anyone; admin methods for tokens",
    )
    beyond = {"LISTEN": address.replace("127.0.0.1", "0.0.0.0")}
    where = f"RATELIMIT_LISTEN is {beyond['LISTEN']}, which is beyond loopback: "
    severity, message = doctor(**beyond)["open"]
    assert severity == "error"
    assert message.startswith(f"{where}tokens and keys are sent to it in plain text; set RATELIMIT_TLS_CERTIFICATE and")
    assert message.endswith("or RATELIMIT_ALLOW_PLAINTEXT=true if the network encrypts, as a service mesh does")
    severity, message = doctor(**beyond, ALLOW_PLAINTEXT="true", PROTECT_CHECKS="false")["open"]
    assert severity == "error"
    assert message.startswith(f"{where}everyone who can connect may request decisions and use up limits; remove RATE")
    allowed = {"ALLOW_PLAINTEXT": "true", "ALLOW_ANONYMOUS": "true", "PROTECT_CHECKS": "false"}
    severity, message = doctor(**beyond, **allowed)["open"]
    assert (severity, message.startswith(where)) == ("warning", True)
    files = {"TLS_CERTIFICATE": "/nowhere.pem", "TLS_KEY": "/nowhere.key"}
    assert doctor(**beyond, **files)["open"] == (
        "ok",
        f"{beyond['LISTEN']} TLS: decisions for gateways; admin methods for tokens",
    )


def test_a_missing_or_old_schema_is_an_error(doctor: Doctor, empty_database_url: Callable[[], str]) -> None:
    """An empty database is distinguished from one of an older revision, and both from one that is as new or newer."""
    url = empty_database_url()
    assert doctor(DATABASE_URL=url)["schema"] == ("error", "missing; run `ratelimit-service migrate`")
    migrate.upgrade(url)
    assert doctor(DATABASE_URL=url)["schema"][0] == "ok"
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    severity, message = doctor(DATABASE_URL=url)["schema"]
    assert (severity, message.startswith("is at revision 0001, this program needs ")) == ("error", True)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'future'")
    severity, message = doctor(DATABASE_URL=url)["schema"]
    assert (severity, message.startswith("is at revision future, which this program")) == ("error", True)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE schema_compatibility SET revision = 'future'")
    severity, message = doctor(DATABASE_URL=url)["schema"]
    assert (severity, message.startswith("is at revision future, newer than the ")) == ("ok", True)


def test_a_missing_database_is_reported(doctor: Doctor, database_url: str) -> None:
    """A server without the database in the URL is an error that names the database."""
    url = database_url.rpartition("/")[0] + "/absent"
    assert 'database "absent" does not exist' in doctor(DATABASE_URL=url)["postgres"][1]


def test_one_postgres_of_two(doctor: Doctor, database_url: str) -> None:
    """If that for changes is away, that for decisions is examined all the same, and the finding names the other one."""
    host, _, port = free_address().rpartition(":")
    found = doctor(DATABASE_URL=f"postgresql://ratelimit:x@{host}:{port}/limits", DECISION_DATABASE_URL=database_url)
    assert found["postgres"][1].endswith(f"(RATELIMIT_DATABASE_URL at {host}:{port} refuses connections)")
    assert found["decision database"][0] == "warning"  # it answers; its role may write


def test_a_redis_that_answers_late_is_a_warning(doctor: Doctor, valkey_url: str) -> None:
    """Workers do not wait for it, though it answers: doctor says how long it takes."""
    severity, message = doctor(STORE_SLOW="0.5")["redis"]
    assert severity == "ok"
    assert re.fullmatch(r"runs the decision script in [\d.]+ ms \(median of 20; [\d.]+ at most\)", message), message
    with FaultProxy(int(valkey_url.rpartition(":")[2].partition("/")[0])) as proxy:
        proxy.inject(delay=0.06)
        severity, message = doctor(REDIS_URL=proxy.url)["redis"]
    assert severity == "warning"
    assert "slower than RATELIMIT_STORE_SLOW (20 ms): on_store_failure decides." in message


def test_a_redis_that_has_evicted_keys_is_a_warning(doctor: Doctor, valkey: Callable[..., EmbeddedValkey]) -> None:
    """Limits of these began anew, whatever its memory looks like now."""
    server = valkey(maxmemory="4mb", **{"maxmemory-policy": "allkeys-random"})
    with Redis.from_url(server.url) as client:
        for number in range(300):
            client.set(f"filling-{number}", b"x" * 20_000)
    severity, message = doctor(REDIS_URL=server.url)["redis memory"]
    assert (severity, message.startswith("it has evicted ")) == ("warning", True), message


def test_a_redis_that_evicts_is_a_warning(doctor: Doctor, valkey: Callable[..., EmbeddedValkey]) -> None:
    """A server that evicts buckets when it is full would admit too much: doctor reports which setting is wrong."""
    evicting = valkey(**{"maxmemory-policy": "allkeys-lru"})
    severity, message = doctor(REDIS_URL=evicting.url)["redis"]
    assert severity == "warning"
    assert message.startswith("its maxmemory-policy is allkeys-lru")


@pytest.mark.parametrize(
    ("options", "severity", "message"),
    [
        ({"maxmemory": "1gb"}, "ok", "0% of 1,024 MiB (maxmemory) is used"),
        ({"maxmemory": "0"}, "warning", "it has no maxmemory"),
        ({"maxmemory": "1100kb"}, "warning", "of 1 MiB (maxmemory) is used: from 80% on new buckets are refused"),
    ],
)
def test_the_memory_of_redis_is_reported(
    doctor: Doctor, valkey: Callable[..., EmbeddedValkey], options: dict[str, str], severity: str, message: str
) -> None:
    """Doctor reports how much of its memory is used, and warns if nothing bounds it or new buckets are refused."""
    found, text = doctor(REDIS_URL=valkey(**options).url)["redis memory"]
    assert (found, message in text) == (severity, True), text


@pytest.fixture
def taken_address() -> Iterator[str]:
    """An address that another socket listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_a_taken_port_is_an_error(doctor: Doctor, taken_address: str) -> None:
    """A port that another program holds is reported, for calls, operations and the console."""
    found = doctor(LISTEN=taken_address)
    assert found["port"][0] == "error"
    assert f"cannot listen on {taken_address}: Address already in use" in found["port"][1]
    for subject in ("operations", "console"):
        found = doctor(**{f"{subject.upper()}_LISTEN": taken_address})
        assert f"set RATELIMIT_{subject.upper()}_LISTEN to another one" in found[f"{subject} port"][1]


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_a_running_server_with_tls_is_ok(
    doctor: Doctor, own_server: Callable[..., Server], transport: str, tmp_path: Path
) -> None:
    """A server that presents the certificate of the settings is asked for its health, whatever name that is for."""
    served = Authority(tmp_path).issue("server", "any", [("DNS", "*.example.test")])
    other = Authority(tmp_path).issue("other")
    server = own_server(transport, tls_certificate=served.certificate, tls_key=served.key)
    settings = {"LISTEN": server.address, "TLS_CERTIFICATE": str(served.certificate), "TLS_KEY": str(served.key)}
    assert doctor(**settings)["port"] == (
        "ok",
        f"a ratelimit-service runs on {server.address} and reports SERVING",
    )
    settings |= {"TLS_CERTIFICATE": str(other.certificate), "TLS_KEY": str(other.key)}
    severity, message = doctor(**settings)["port"]
    assert (severity, "Address already in use" in message) == ("error", True)


def test_a_running_server_that_wants_certificates(
    doctor: Doctor, own_server: Callable[..., Server], tmp_path: Path
) -> None:
    """It is asked with the certificate that commands present; without one, doctor says how to name one."""
    authority = Authority(tmp_path)
    served, caller = authority.issue("server"), authority.issue("caller")
    server = own_server(
        "grpcio", tls_certificate=served.certificate, tls_key=served.key, tls_client_ca=authority.certificate
    )
    settings = {
        "LISTEN": server.address,
        "TLS_CERTIFICATE": str(served.certificate),
        "TLS_KEY": str(served.key),
        "TLS_CLIENT_CA": str(authority.certificate),
    }
    severity, message = doctor(**settings)["port"]
    assert (severity, "RATELIMIT_SERVER_CERTIFICATE" in message) == ("ok", True)
    files = {"SERVER_CERTIFICATE": str(caller.certificate), "SERVER_KEY": str(caller.key)}
    assert doctor(**settings, **files)["port"] == (
        "ok",
        f"a ratelimit-service runs on {server.address} and reports SERVING",
    )


def test_a_running_server_that_does_not_use_tls_yet(
    doctor: Doctor, own_server: Callable[..., Server], tmp_path: Path
) -> None:
    """A server that was started before TLS was set is reported, and that it has to be restarted."""
    served = Authority(tmp_path).issue("server")
    server = own_server("grpcio")
    files = {"TLS_CERTIFICATE": str(served.certificate), "TLS_KEY": str(served.key)}
    severity, message = doctor(LISTEN=server.address, **files)["port"]
    assert severity == "warning"
    assert message.endswith("without TLS and reports SERVING; restart it to use TLS")


def test_few_descriptors(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hard limit of descriptors that leaves few connections is a warning that says how many, and what to raise."""
    monkeypatch.setattr(resource, "getrlimit", lambda _limit: (512, 1024))
    severity, message = doctor()["descriptors"]
    assert severity == "warning"
    assert "1024 leaves 768 connections" in message
    monkeypatch.setattr(resource, "getrlimit", lambda _limit: (512, -1))
    assert doctor()["descriptors"][0] == "ok"
