"""`ratelimit-service migrate`: the database's schema."""

from typing import Annotated

import typer

from ratelimit_service.cli.configured import database_faults, database_url, load_settings, with_dev_stores
from ratelimit_service.cli.fault import report_faults
from ratelimit_service.postgres import migrate as schema


def migrate(
    *, dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False
) -> None:
    """Bring the database's schema to the version that this program needs. Several at once do no harm."""
    with report_faults(), database_faults():
        url = database_url(with_dev_stores(load_settings()))
        before, wanted = schema.current(url), schema.head()
        if before == wanted:
            typer.echo(f"the schema is at revision {wanted} already")
        elif dry_run:
            typer.echo(f"the schema is at revision {before or 'none'} and would go to {wanted}")
        else:
            schema.upgrade(url)
            typer.echo(f"the schema went from revision {before or 'none'} to {wanted}")
