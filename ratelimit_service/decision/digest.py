"""What stands in memory for bytes that hold a secret."""

from hashlib import blake2b


def digest_of(data: bytes) -> bytes:
    """16 bytes by which DATA is known again, and from which nobody finds it: a secret has too many bits to be tried."""
    return blake2b(data, digest_size=16).digest()
