"""The end of a page."""

import typer


def print_next_page(page_token: str) -> None:
    """Say how to go on, if there is more."""
    if page_token:
        typer.echo(f"\nthere is more: --page-token {page_token}", err=True)
