"""Where a webhook may be: the URL's parts, and which addresses are public."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final, TypeAlias
from urllib.parse import urlsplit

Address: TypeAlias = IPv4Address | IPv6Address
Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[Address]]]
"""Returns the addresses of a name. Raises OSError if it has none."""

_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_MAX_LABEL: Final = 63  # characters between the dots of a name
_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The parts of a webhook's URL. `target` is what the request asks for: the path, with the query."""

    secure: bool
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str, *, allow_private: bool) -> "Endpoint":
        """Read a URL: https, or http where private addresses are allowed. Raises ValueError, without the URL in it."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError("is not a URL; write https://host/path") from None
        schemes = ("https", "http") if allow_private else ("https",)
        if parts.scheme not in schemes:
            raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        if not parts.hostname or parts.username is not None or not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("must be https://host/path in ASCII, without a user name and blanks")
        if not all(0 < len(label) <= _MAX_LABEL for label in parts.hostname.removesuffix(".").split(".")):
            raise ValueError(f"names a host with an empty label, or one of more than {_MAX_LABEL} characters")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme == "https", parts.hostname, port or _PORTS[parts.scheme], target)

    @property
    def authority(self) -> str:
        """The value of the header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["https" if self.secure else "http"] else f"{host}:{self.port}"


async def resolve(host: str, port: int) -> Sequence[Address]:
    """Return the addresses of a name, or the address that HOST is."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found]


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, also the IPv4 address that an IPv6 address stands for.

    Of IPv6 that is global unicast alone, and the well-known prefix of NAT64: there are more ways to write an IPv4
    address in the rest (IPv4-compatible, translated, a NAT64 prefix of a site's own) than Python knows to be private.
    """
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    inside = address.sixtofour or (address.teredo or (None, None))[1]
    return address in _UNICAST and address.is_global and (inside is None or is_public(inside))
