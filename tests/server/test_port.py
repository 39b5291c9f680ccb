"""The lock on the public port."""

import socket

import pytest

from ratelimit_service.errors import StartupError
from ratelimit_service.server.port import PortLock, split_address


def worker(lock: PortLock) -> socket.socket:
    """What a worker does with the port: share it and listen."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((lock.host, lock.port))
    listener.listen()
    return listener


def test_only_workers_share_the_port() -> None:
    """While the lock is held, workers can share the port and get every connection; a second lock is refused."""
    with PortLock("127.0.0.1:0") as lock, worker(lock) as first, worker(lock) as second:
        with pytest.raises(StartupError, match="Address already in use"):
            PortLock(lock.address)
        for listener in (first, second):
            listener.settimeout(0.2)
        reached = 0
        for _ in range(10):
            with socket.create_connection((lock.host, lock.port), timeout=1):
                for listener in (first, second):
                    try:
                        listener.accept()[0].close()
                        reached += 1
                    except TimeoutError:
                        pass
        assert reached == 10


def test_a_lock_alone_is_enough() -> None:
    """Even before a worker listens, a second lock is refused."""
    with PortLock("127.0.0.1:0") as lock, pytest.raises(StartupError, match="Address already in use"):
        PortLock(lock.address)


def test_a_port_with_old_connections_can_be_taken() -> None:
    """Connections of an earlier server that linger do not prevent the next from starting."""
    with PortLock("127.0.0.1:0") as lock, worker(lock) as listener:
        address = lock.address
        caller = socket.create_connection((lock.host, lock.port))
        listener.accept()[0].close()  # the server closes first, so that it is its side that lingers
        caller.recv(1)
        caller.close()
    PortLock(address).close()


def test_a_released_port_is_free() -> None:
    """After the lock is closed, another one can have the port."""
    with PortLock("127.0.0.1:0") as lock:
        address = lock.address
    PortLock(address).close()


@pytest.mark.parametrize(
    ("text", "parts"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:50051", ("::1", 50051)), ("localhost:65535", ("localhost", 65535))],
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    """Host and port, with an IPv6 host in brackets."""
    assert split_address(text) == parts


@pytest.mark.parametrize("text", ["", ":", "host", "host:", ":1", "host:65536", "host:-1", "host:x", "host:²"])
def test_what_is_no_address(text: str) -> None:
    """The text is repeated, with examples of good ones."""
    with pytest.raises(StartupError, match=r"write host:port, for example 127\.0\.0\.1:50051"):
        split_address(text)


def test_an_ipv6_lock_has_its_address_in_brackets() -> None:
    """The address of a lock is one that another lock accepts."""
    with PortLock("[::1]:0") as lock:
        assert lock.address == f"[::1]:{lock.port}"


def test_what_to_do_depends_on_why_a_port_cannot_be_taken() -> None:
    """A port that is taken, and an address of no interface of this machine, each have their own remedy."""
    with PortLock("127.0.0.1:0") as lock, pytest.raises(StartupError, match="holds the port, or set RATELIMIT_LISTEN"):
        PortLock(lock.address)
    with pytest.raises(StartupError, match=r"assign requested address; set RATELIMIT_X to an address of this machine$"):
        PortLock("192.0.2.1:0", "RATELIMIT_X")
