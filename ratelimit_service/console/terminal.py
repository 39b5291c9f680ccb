"""The same from a terminal: the commands that a page shows, with whatever callers chose quoted for a shell."""

import json
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple


class Terminal(NamedTuple):
    """What a page does, as commands of the CLI and as calls of grpcurl, both ready to paste."""

    cli: tuple[str, ...]
    grpc: tuple[str, ...]


def cli(*words: str, name: str = "") -> str:
    """A command: `ratelimit-service keys get 7Qm2...`. Options may be words of their own.

    NAME is the argument at its end, if there is one: also a name that begins like an option is none.
    """
    argument = ("--", name) if name.startswith("-") else (name,) if name else ()
    return shlex.join(("ratelimit-service", *words, *argument))


def grpcurl(method: str, request: Mapping[str, Any]) -> str:
    """A call of KeyAdminService."""
    message = shlex.quote(json.dumps(request, ensure_ascii=False, separators=(", ", ": ")))
    return f'grpcurl -H "authorization: Bearer $TOKEN" -d {message} \\\n  $SERVER ratelimit.v1.KeyAdminService/{method}'
