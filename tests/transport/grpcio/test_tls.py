"""TLS, client certificates, and certificates that change while the server runs."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from ratelimit_service.bootstrap import open_planes
from ratelimit_service.settings import Settings
from ratelimit_service.transport.grpcio.server import GrpcServer
from ratelimit_service.transport.grpcio.tls import Certificates
from transport.grpcio.conftest import MakeSettings
from transport.grpcio.running import CHECKS


def openssl(*words: str | Path) -> None:
    """Run openssl."""
    subprocess.run(["openssl", *words], check=True, capture_output=True)


@dataclass(frozen=True)
class Authority:
    """A certificate authority of a test."""

    folder: Path
    name: str

    @classmethod
    def make(cls, folder: Path, name: str) -> "Authority":
        """Make one."""
        authority = cls(folder, name)
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *("-subj", f"/CN={name}", "-keyout", folder / f"{name}.key", "-out", authority.certificate),
        )
        return authority

    @property
    def certificate(self) -> Path:
        """Its own certificate."""
        return self.folder / f"{self.name}.pem"

    def sign(self, name: str) -> tuple[Path, Path]:
        """Make a certificate for localhost, and its key."""
        certificate, key, request = (self.folder / f"{name}.{ending}" for ending in ("pem", "key", "csr"))
        openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", request),
        )
        openssl(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.folder / f"{self.name}.key"),
            *("-days", "2", "-copy_extensions", "copy", "-out", certificate),
        )
        return certificate, key


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that clients trust."""
    return Authority.make(tmp_path_factory.mktemp("tls"), "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One that clients do not trust."""
    return Authority.make(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="module")
def plain(make_settings: MakeSettings) -> Settings:
    """Settings without TLS."""
    return make_settings()


@asynccontextmanager
async def serving(settings: Settings, **tls: Path) -> AsyncIterator[GrpcServer]:
    """A server with this TLS."""
    settings = settings.model_copy(update=tls)
    async with open_planes(settings, needs_token=False) as planes:
        server = GrpcServer(settings, planes, planes.key_admin)
        await server.start()
        yield server
        await server.drain(0)


async def reach(server: GrpcServer, credentials: grpc.ChannelCredentials) -> grpc.StatusCode:
    """The status of a call: INVALID_ARGUMENT means that it was answered, since it has no key."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"localhost:{server.port}", credentials, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"{CHECKS}/CheckLimit")(b"", timeout=10)
        return caught.value.code()


async def presented(server: GrpcServer) -> str:
    """The certificate that the server presents to a new connection."""
    return await asyncio.to_thread(ssl.get_server_certificate, ("localhost", server.port), timeout=10)


def in_place(source: Path, target: Path) -> None:
    """Put a copy of SOURCE in TARGET's place, as tools that renew certificates do."""
    new = target.with_suffix(".new")
    new.write_bytes(source.read_bytes())
    new.replace(target)


ANSWERED = grpc.StatusCode.INVALID_ARGUMENT


async def test_tls_is_served(plain: Settings, authority: Authority, stranger: Authority) -> None:
    """A client that trusts the authority is answered; one that does not, and one without TLS, are not."""
    certificate, key = authority.sign("server")
    async with serving(plain, tls_certificate=certificate, tls_key=key) as server:
        trusting = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
        assert await reach(server, trusting) is ANSWERED
        distrusting = grpc.ssl_channel_credentials(stranger.certificate.read_bytes())
        assert await reach(server, distrusting) is grpc.StatusCode.UNAVAILABLE
        async with grpc.aio.insecure_channel(f"localhost:{server.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"{CHECKS}/CheckLimit")(b"", timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_clients_need_a_certificate_of_the_client_authority(
    plain: Settings, authority: Authority, stranger: Authority
) -> None:
    """With a client authority, a client without a certificate or with one of another authority is not answered."""
    certificate, key = authority.sign("server")
    async with serving(plain, tls_certificate=certificate, tls_key=key, tls_client_ca=authority.certificate) as server:
        root = authority.certificate.read_bytes()
        found = [await reach(server, grpc.ssl_channel_credentials(root))]
        for signer in (authority, stranger):
            own_certificate, own_key = signer.sign("client")
            credentials = grpc.ssl_channel_credentials(root, own_key.read_bytes(), own_certificate.read_bytes())
            found.append(await reach(server, credentials))
        assert found == [grpc.StatusCode.UNAVAILABLE, ANSWERED, grpc.StatusCode.UNAVAILABLE]


async def test_a_renewed_certificate_is_presented_without_a_restart(
    plain: Settings, authority: Authority, tmp_path: Path
) -> None:
    """New connections get the new certificate as soon as both files are there; until then they get the old one."""
    first, second = authority.sign("first"), authority.sign("second")
    certificate, key = tmp_path / "live.pem", tmp_path / "live.key"
    in_place(first[0], certificate)
    in_place(first[1], key)
    async with serving(plain, tls_certificate=certificate, tls_key=key) as server:
        trusting: Callable[[], grpc.ChannelCredentials] = lambda: grpc.ssl_channel_credentials(  # noqa: E731
            authority.certificate.read_bytes()
        )
        assert (await presented(server)).strip() == first[0].read_text().strip()
        with capture_logs() as logged:
            in_place(second[0], certificate)
            assert (await presented(server)).strip() == first[0].read_text().strip()
            assert await reach(server, trusting()) is ANSWERED
            in_place(second[1], key)
            assert (await presented(server)).strip() == second[0].read_text().strip()
            assert await reach(server, trusting()) is ANSWERED
            key.unlink()
            assert (await presented(server)).strip() == second[0].read_text().strip()
        events = [line["event"] for line in logged]
        assert "certificate not renewed" in events
        assert "certificate renewed" in events


def test_a_renewed_certificate_is_read_once(authority: Authority, tmp_path: Path) -> None:
    """A connection that finds the files as the one before left them does not read them again."""
    first, second = authority.sign("first"), authority.sign("second")
    certificate, key = tmp_path / "live.pem", tmp_path / "live.key"
    in_place(first[0], certificate)
    in_place(first[1], key)
    certificates = Certificates(certificate, key, None)
    assert certificates.renewed() is None
    in_place(second[0], certificate)
    in_place(second[1], key)
    assert certificates.renewed() is not None
    assert certificates.renewed() is None


async def test_a_client_authority_that_changes_counts_at_once(
    plain: Settings, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    """When the client authority's file changes, clients of the old one are not answered any more."""
    certificate, key = authority.sign("server")
    client_ca = tmp_path / "clients.pem"
    in_place(authority.certificate, client_ca)
    async with serving(plain, tls_certificate=certificate, tls_key=key, tls_client_ca=client_ca) as server:
        own_certificate, own_key = authority.sign("client")
        credentials = grpc.ssl_channel_credentials(
            authority.certificate.read_bytes(), own_key.read_bytes(), own_certificate.read_bytes()
        )
        assert await reach(server, credentials) is ANSWERED
        in_place(stranger.certificate, client_ca)
        assert await reach(server, credentials) is grpc.StatusCode.UNAVAILABLE
