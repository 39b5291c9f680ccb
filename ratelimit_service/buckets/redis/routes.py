"""The ways to a single server: the one that was named, or the master that Sentinels name."""

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import hiredis

from ratelimit_service.buckets.redis.connection import Endpoint, Link, Login, open_link
from ratelimit_service.decision.ports import StoreUnavailable

_T = TypeVar("_T")

PAUSE = 0.01
"""Seconds before a command is sent again to a server that is not ready yet."""


class StandaloneRoute:
    """The way to one server at a fixed address (which a name or a proxy may move)."""

    def __init__(self, endpoint: Endpoint, login: Login) -> None:
        self._endpoint = endpoint
        self._login = login
        self._link: Link | None = None

    def link(self) -> Link | None:
        """The open link, if there is one now."""
        link = self._link
        return link if link is not None and link.open else None

    async def recover(self, refusal: str) -> Link:
        """Connect where that is needed, after a pause where the server is not ready."""
        link = self.link()
        if link is not None and not refusal.startswith(("READONLY", "MASTERDOWN")):
            await asyncio.sleep(PAUSE)
            if link.open:
                return link
        if link is not None:
            # It has become a replica: whoever is behind the name now is perhaps the master.
            link.close(f"Redis at {link.endpoint} is not the master any more")
        if refusal:
            await asyncio.sleep(PAUSE)
        self._link = await open_link(self._endpoint, self._login)
        return self._link

    async def close(self) -> None:
        """Close the link."""
        if self._link is not None:
            self._link.close("the bucket store was closed")


class SentinelRoute:
    """The way to the master of this name, by whichever Sentinel answers first."""

    def __init__(self, sentinels: Sequence[Endpoint], name: str, login: Login, sentinel_login: Login) -> None:
        self._sentinels = sentinels
        self._name = name
        self._login = login
        self._sentinel_login = sentinel_login
        self._link: Link | None = None

    def link(self) -> Link | None:
        """The open link, if there is one now."""
        link = self._link
        return link if link is not None and link.open else None

    async def recover(self, refusal: str) -> Link:
        """Ask for the master and connect to it.

        After a refusal, which comes when a failover is under way, as often as it takes until the caller's time is up.
        """
        link = self.link()
        if link is not None and refusal.startswith("LOADING"):
            await asyncio.sleep(PAUSE)
            if link.open:
                return link
        if link is not None:
            link.close(f"Redis at {link.endpoint} is not the master any more")
        while refusal:
            await asyncio.sleep(PAUSE)
            with contextlib.suppress(StoreUnavailable):
                return await self._connect()
        return await self._connect()

    async def _connect(self) -> Link:
        endpoint = await first(
            [_master_by(sentinel, self._name, self._sentinel_login) for sentinel in self._sentinels],
            f"no Sentinel knows a master named {self._name!r}",
        )
        link = self._link = await _open_master(endpoint, self._login)
        return link

    async def close(self) -> None:
        """Close the link."""
        if self._link is not None:
            self._link.close("the bucket store was closed")


async def first(tries: Sequence[Awaitable[_T]], failure: str) -> _T:
    """The result of the first that succeeds; the others are given up. Raises StoreUnavailable with all their faults."""
    tasks = [asyncio.ensure_future(attempt) for attempt in tries]
    faults = []
    try:
        for task in asyncio.as_completed(tasks):
            try:
                return await task
            except StoreUnavailable as fault:
                faults.append(str(fault))
    finally:
        for task in tasks:
            task.cancel()
    raise StoreUnavailable(f"{failure}: {'; '.join(faults)}")


async def _master_by(sentinel: Endpoint, name: str, login: Login) -> Endpoint:
    link = await open_link(sentinel, login)
    try:
        address = await link.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
    except hiredis.ReplyError as fault:
        raise StoreUnavailable(f"Sentinel at {sentinel}: {fault}") from fault
    finally:
        link.close("done")
    if not isinstance(address, list):
        raise StoreUnavailable(f"Sentinel at {sentinel} knows no master named {name!r}")
    host, port = address
    return Endpoint(host.decode(), int(port))


async def _open_master(endpoint: Endpoint, login: Login) -> Link:
    """Connect, and make sure that it takes itself for the master: a Sentinel may not know yet that it is not."""
    link = await open_link(endpoint, login)
    try:
        role = await link.ask("ROLE")
    except hiredis.ReplyError as fault:
        link.close("not usable")
        raise StoreUnavailable(f"Redis at {endpoint} does not say its role: {fault}") from fault
    except BaseException:
        link.close("given up")
        raise
    if not isinstance(role, list) or role[0] != b"master":
        link.close("not the master")
        raise StoreUnavailable(f"Redis at {endpoint} is not the master that the Sentinels say it is")
    return link
