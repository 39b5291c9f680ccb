"""Which server a command calls, and what it may send there: a token goes to this machine, or by TLS."""

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from ratelimit_service.cli.errors import CommandError
from ratelimit_service.data_dir import DEFAULT_DATA_DIR
from ratelimit_service.devstores.state import DevState

if TYPE_CHECKING:
    import grpc

DEFAULT_SERVER: Final = "localhost:50051"

_EVERY_INTERFACE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}  # noqa: S104  nothing is bound
_TLS: Final = "https"
_PLAINTEXT: Final = "plaintext"
"""The scheme of a server to which everything is sent in plain text over a network, token and API keys included."""

_MAX_TOKEN: Final = 4_096
_FORMS: Final = (
    "write HOST:PORT for a server on this machine, https://HOST:PORT for one with TLS, or "
    f"{_PLAINTEXT}://HOST:PORT to send tokens and keys unencrypted"
)


def dialable(listen: str) -> str:
    """The address at which to call a server that listens on LISTEN, also when that means every interface."""
    host, _, port = listen.rpartition(":")
    return f"{_EVERY_INTERFACE.get(host, host)}:{port}"


TLS_VARIABLES: Final = ("RATELIMIT_SERVER_CA", "RATELIMIT_SERVER_KEY", "RATELIMIT_SERVER_CERTIFICATE")
"""The variables that name the PEM files for a server with TLS. Without a CA, the system's are used."""


def tls_credentials(ca: bytes | None = None) -> "grpc.ChannelCredentials":
    """Read the files that the variables name. A CA that is given takes the place of theirs.

    Raises CommandError for one that cannot be read.
    """
    names = [os.environ.get(variable) for variable in TLS_VARIABLES]
    try:
        named_ca, key, certificate = (Path(name).read_bytes() if name else None for name in names)
    except OSError as error:
        raise CommandError.usage(f"cannot read {error.filename}: {error.strerror}") from None
    import grpc  # noqa: PLC0415  few commands need credentials, and some no server

    return grpc.ssl_channel_credentials(ca or named_ca, key, certificate)


@dataclass(frozen=True, slots=True)
class Target:
    """A server's address, the bearer token to send, and credentials if it serves TLS."""

    address: str
    token: str = field(default="", repr=False)
    credentials: "grpc.ChannelCredentials | None" = None

    @classmethod
    def choose(cls, server: str | None, token: str | None, *, decides: bool = False) -> "Target":
        """The given server and token. Without a server: the one that `dev` started here, with its token by default.

        Of that, the address of the admin methods, or if `decides` that of decisions.

        That token is sent to no other server, and in plain text only to loopback addresses, unless the scheme
        `plaintext` says so. TOKEN may be `@FILE`. Raises CommandError, which never repeats a token.
        """
        dev = None if server else dev_state()
        listen = dev and (dev.listen if decides else dev.admin_address)
        address = server or (dialable(listen) if listen else DEFAULT_SERVER)
        sent = _read_token(token) if token else (dev.admin_token if dev else "")
        if "://" not in address or not server:  # `dev` writes no other addresses, but somebody else may have
            if not is_on_this_machine(address):
                where = "" if server else f", which {DevState.path(_data_dir())} names,"
                raise CommandError.usage(f"{address}{where} is not on this machine: {_FORMS}")
            return cls(address, sent)
        url = _split(address)
        if url is None or url.scheme not in {_TLS, _PLAINTEXT}:
            raise CommandError.usage(f"--server {address}: {_FORMS}")
        return cls(url.netloc, sent, tls_credentials() if url.scheme == _TLS else None)


def _split(address: str) -> SplitResult | None:
    """The parts of a URL that has a host, and nothing but a port beside it. None for any other."""
    try:
        url = urlsplit(address)
        _ = url.port
    except ValueError:
        return None
    return url if url.hostname and "@" not in url.netloc and not (url.path or url.query or url.fragment) else None


def is_on_this_machine(address: str) -> bool:
    """Whether HOST:PORT is a loopback address, whatever a name server says."""
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit()):
        return False
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _read_token(text: str) -> str:
    """The token that --token names, without blanks at its ends: itself, or what is in a file."""
    if text.startswith("@"):
        try:
            with Path(text[1:]).open(encoding="utf-8") as file:
                text = file.read(_MAX_TOKEN + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError.usage(f"cannot read the token from {text[1:]}: {type(error).__name__}") from None
    token = text.strip()
    if not 0 < len(token) <= _MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise CommandError.usage("--token or RATELIMIT_TOKEN: is no token, which has letters, digits and _ only")
    return token


def _data_dir() -> Path:
    return Path(os.environ.get("RATELIMIT_DATA_DIR") or DEFAULT_DATA_DIR)


def dev_state() -> DevState | None:
    """What `dev` wrote in this folder when it started last, None if it never did. Raises CommandError."""
    try:
        return DevState.read(_data_dir())
    except ValueError as error:
        raise CommandError.usage(f"{error}; or name the server with --server") from None
    except OSError as error:
        raise CommandError.usage(
            f"cannot read {error.filename}: {error.strerror}; name the server with --server, or a folder of your own "
            "with RATELIMIT_DATA_DIR"
        ) from None
