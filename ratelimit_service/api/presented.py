"""What a connection and a call present of their caller: all that can be known of it before a token is looked up."""

from typing import Final, NamedTuple, TypeAlias
from urllib.parse import unquote

Peer: TypeAlias = str | tuple[str, int]
"""The other end of a connection, as a transport writes it: `("::1", 4711)`, `[::1]:4711`, `ipv6:%5B::1%5D:4711`."""

PEER_HEADER: Final = "x-ratelimit-peer"
"""The header in which our Envoy names the peer to the control plane behind it. What a caller sent in it is replaced."""

CERTIFICATE_HEADER: Final = "x-ratelimit-certificate"
"""The header in which our Envoy gives the name of a gateway that the certificate has. What a caller sent is removed, if
any names are listed; if none are, the header is ignored."""


class Presented(NamedTuple):
    """What a call presents. Only `authorization` is chosen by the caller: the rest is what its connection shows.

    One is made for a call, so nothing in it is computed before it is asked for.
    """

    authorization: str | bytes | None = None
    """The header `authorization`, several of them joined by commas: together they are no valid token."""
    peer: Peer = ""
    """The other end of the connection, as our Envoy or grpcio saw it; empty if it is not known."""
    certificate: str = ""
    """The name in the caller's verified certificate (DNS or URI SAN) that is listed as a gateway's, else empty."""

    @property
    def address(self) -> str:
        """The IP address of the other end, empty if it is not known."""
        if isinstance(self.peer, tuple):
            return self.peer[0]
        host = unquote(self.peer.removeprefix("ipv4:").removeprefix("ipv6:")).rpartition(":")[0]
        return host.removeprefix("[").removesuffix("]")

    @property
    def peer_text(self) -> str:
        """The other end in one form, for logs: `192.0.2.1:4711`."""
        if isinstance(self.peer, str):
            return unquote(self.peer.removeprefix("ipv4:").removeprefix("ipv6:"))
        host, port = self.peer
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
