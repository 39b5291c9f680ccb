"""A secret, which is shown once."""

import typer


def print_secret(kind: str, secret: str) -> None:
    """Print the secret on a line of its own, easy to copy whole."""
    typer.echo(f"\n{kind}, shown now and never again:\n{secret}")
