"""Transactions of the control plane's database, which the adapter implements."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

W_co = TypeVar("W_co", covariant=True)


class Transactions(Protocol[W_co]):
    """Begins transactions, which give what a use case works on: each noun says what it needs.

    Both raise Unavailable (POLICY_STORE_UNAVAILABLE), within a second when the database is down.
    """

    def reading(self) -> AbstractAsyncContextManager[W_co]:
        """Return a transaction that only reads, in one snapshot."""
        ...

    def writing(self) -> AbstractAsyncContextManager[W_co]:
        """Return a transaction that commits when its block ends, and rolls back when the block raises.

        Writing transactions run one after the other, so what one has read does not change until it ends.
        """
        ...
