"""The options that many commands share."""

from typing import Annotated

import typer

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="RATELIMIT_SERVER",
        metavar="HOST:PORT",
        help="The server to ask; https://HOST:PORT for one with TLS. Default: the one that `dev` started here, "
        "otherwise localhost:50051.",
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="RATELIMIT_TOKEN",
        metavar="TOKEN",
        help="The token to show. Default: the one of the server that `dev` started here.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
PageSize = Annotated[int, typer.Option("--page-size", min=0, max=1000, help="How many at most. 0 means 100.")]
PageToken = Annotated[str, typer.Option("--page-token", metavar="TOKEN", help="Go on after an earlier page.")]
