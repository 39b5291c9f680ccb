"""What a call presents of its caller."""

import pytest

from ratelimit_service.api.presented import Peer, Presented


@pytest.mark.parametrize(
    ("peer", "address", "text"),
    [
        (("192.0.2.1", 4711), "192.0.2.1", "192.0.2.1:4711"),
        (("2001:db8::1", 4711), "2001:db8::1", "[2001:db8::1]:4711"),
        ("192.0.2.1:4711", "192.0.2.1", "192.0.2.1:4711"),
        ("[2001:db8::1]:4711", "2001:db8::1", "[2001:db8::1]:4711"),
        ("ipv4:192.0.2.1:4711", "192.0.2.1", "192.0.2.1:4711"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1", "[2001:db8::1]:4711"),
        ("unix:", "unix", "unix:"),
        ("", "", ""),
    ],
)
def test_a_peer_has_an_address(peer: Peer, address: str, text: str) -> None:
    """However a transport writes a peer, its address is found, and a log shows it in one form."""
    presented = Presented(peer=peer)
    assert (presented.address, presented.peer_text) == (address, text)
