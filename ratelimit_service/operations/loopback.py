"""Which addresses only processes of this machine can connect to."""

from ipaddress import IPv6Address, ip_address


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine can connect to the IP address HOST. Raises ValueError if it is none."""
    address = ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
