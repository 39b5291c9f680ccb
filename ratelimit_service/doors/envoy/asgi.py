"""The part of ASGI that Envoy's embedded Python and this door speak with each other."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

Event: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class Gone(Exception):
    """The caller has given up: nothing is to be charged, and nobody would read an answer."""


def body_of(event: Event) -> tuple[bytes, bool]:
    """What has arrived of the request's body since the last event, and whether more may come. Raises Gone."""
    if event["type"] != "http.request":
        raise Gone
    return event["body"], event["more_body"]
