"""The URLs of bucket stores."""

import ssl
import subprocess
from pathlib import Path

import pytest
import redis

from buckets.conftest import MakeBucket, OpenStore
from faults.proxy import FaultProxy
from fixtures.redis_cluster import free_port
from fixtures.valkey import StartValkey
from ratelimit_service.buckets.redis.connect import open_unguarded_store
from ratelimit_service.buckets.redis.connection import Address, Login
from ratelimit_service.decision.charge import Charge
from ratelimit_service.decision.limit import MICRO, Limit, TokenBucket
from ratelimit_service.decision.ports import StoreUnavailable


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://user:geheim@host", "scheme 'http'"),
        ("redis://:geheim@host:port/0", "address 'host:port'"),
        ("redis://:geheim@host/zero", "database 'zero'"),
        ("redis://:geheim@host/0?retries=3", "unknown options retries"),
        ("redis+sentinel://:geheim@host", "names no master"),
    ],
)
async def test_an_invalid_url_is_rejected_without_its_password(url: str, message: str) -> None:
    """The error for an invalid URL names what is wrong with it, and does not contain its password."""
    with pytest.raises(ValueError, match=message) as raised:
        open_unguarded_store(url, timeout=1, request_window=30)
    assert "geheim" not in str(raised.value)


def test_a_login_does_not_show_its_password() -> None:
    """A Login in a log or a traceback does not reveal its password."""
    assert "geheim" not in repr(Login("user", "geheim"))


def test_an_address_as_text() -> None:
    """Messages have hosts, IPv6 addresses and sockets in their usual notation."""
    assert str(Address("host", 6379)) == "host:6379"
    assert str(Address("::1", 6379)) == "[::1]:6379"
    assert str(Address("", 0, "/run/redis.sock")) == "/run/redis.sock"


async def test_connection_refused(open_store: OpenStore) -> None:
    """Where nothing listens, a ping fails at once with the address."""
    port = free_port()
    for url in (
        f"redis://127.0.0.1:{port}",
        f"redis+sentinel://127.0.0.1:{port}/m",
        f"redis+cluster://127.0.0.1:{port}",
    ):
        with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}"):
            await open_store(url).ping()


async def test_databases_and_users(valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket) -> None:
    """The database and the user of a URL are used: databases share no bucket, and a user without rights fails."""
    server = valkey()
    ten = bucket(Limit("ten", TokenBucket(10, 1, 86_400 * MICRO)))
    with redis.Redis.from_url(server.url) as client:
        client.acl_setuser("ann", enabled=True, passwords=["+ann's"], keys=["*"], categories=["+@all"])
        client.acl_setuser("bob", enabled=True, passwords=["+bob's"])
    for path in ("127.0.0.1:%d/0", "ann:ann's@127.0.0.1:%d/3"):
        (result,) = await open_store(f"redis://{path % server.port}").charge([Charge((ten,), (1,))])
        assert result.limit_results[0].remaining == 9 * MICRO
    with pytest.raises(StoreUnavailable, match=r"NOPERM|no permissions"):
        await open_store(f"redis://bob:bob's@127.0.0.1:{server.port}/0").ping()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key in the same file."""
    path = tmp_path / "certificate.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=test -keyout {path}.key -out {path}"
    subprocess.run([*command.split(), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    path.write_text(path.read_text() + path.with_name(f"{path.name}.key").read_text())
    return path


async def test_tls(valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket, certificate: Path) -> None:
    """`rediss://` verifies the server's certificate against the given CA, and rejects another's."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    charge = Charge((bucket(Limit("l", TokenBucket(5, 1, MICRO))),), (1,))
    with FaultProxy(valkey().port, tls=tls) as proxy:
        url = proxy.url.replace("redis://", "rediss://")
        known, unchecked = open_store(f"{url}?ssl_ca_certs={certificate}"), open_store(f"{url}?ssl_cert_reqs=none")
        assert (await known.charge([charge]))[0].charged
        assert (await unchecked.charge([charge]))[0].charged
        with pytest.raises(StoreUnavailable, match=r"certificate verify failed"):
            await open_store(url).charge([charge])
        await known.close()
        await unchecked.close()
