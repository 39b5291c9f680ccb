"""Transactions of the control plane's database, which the adapter implements; and those that are only rehearsed."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Generic, Protocol, TypeVar

W = TypeVar("W")
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


class Rehearsal(Generic[W]):
    """The same transactions, of which those that write are rolled back in the end: what is checked in them is checked.

    So a change can be tried with all that the database and the services would refuse, and nothing is announced.
    """

    def __init__(self, transactions: Transactions[W]) -> None:
        self._transactions = transactions

    def reading(self) -> AbstractAsyncContextManager[W]:
        """Return a transaction that only reads, in one snapshot."""
        return self._transactions.reading()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[W]:
        """Return a transaction that rolls back when its block ends."""
        with suppress(_RolledBack):
            async with self._transactions.writing() as work:
                yield work
                raise _RolledBack


class _RolledBack(Exception):
    """Ends a transaction that was only rehearsed."""
