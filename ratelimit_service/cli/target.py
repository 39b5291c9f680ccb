"""Which server a command asks, and what it shows there."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from ratelimit_service.cli.address import dialable
from ratelimit_service.cli.fault import Fault
from ratelimit_service.embedded.dev_state import DevState
from ratelimit_service.settings import Settings

DEFAULT_SERVER = "localhost:50051"


class TlsFiles(BaseSettings):
    """The PEM files for a server with TLS, from RATELIMIT_SERVER_CA and so on. Without a CA, the system's are used."""

    model_config = SettingsConfigDict(env_prefix="RATELIMIT_SERVER_", extra="ignore", frozen=True)

    ca: Path | None = Field(default=None)
    certificate: Path | None = Field(default=None)
    key: Path | None = Field(default=None)

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files. Raises Fault for one that cannot be read."""
        try:
            ca, certificate, key = (
                path.read_bytes() if path else None for path in (self.ca, self.certificate, self.key)
            )
        except OSError as error:
            raise Fault.usage(f"cannot read {error.filename}: {error.strerror}") from None
        return grpc.ssl_channel_credentials(ca, key, certificate)


@dataclass(frozen=True, slots=True)
class Target:
    """A server's address, the token to show there, and credentials if it speaks TLS."""

    address: str
    token: str = field(default="", repr=False)
    credentials: grpc.ChannelCredentials | None = None

    @classmethod
    def choose(cls, server: str | None, token: str | None) -> "Target":
        """The server and token that were named; what was not named is taken from the server that `dev` started here.

        That server's token is shown to no other server.
        """
        dev = None if server else _dev_server()
        address = server or (dialable(dev.listen) if dev else DEFAULT_SERVER)
        shown = token or (dev.admin_token if dev else "")
        if "://" not in address:
            return cls(address, shown)
        url = urlsplit(address)
        if url.scheme != "https" or not url.netloc:
            raise Fault.usage(f"--server {address}: write HOST:PORT, or https://HOST:PORT for a server with TLS")
        return cls(url.netloc, shown, TlsFiles().credentials())


def _dev_server() -> DevState | None:
    data_dir = Path(os.environ.get("RATELIMIT_DATA_DIR") or Settings.model_fields["data_dir"].default)
    try:
        return DevState.read(data_dir)
    except ValueError as error:
        raise Fault.usage(str(error)) from None
