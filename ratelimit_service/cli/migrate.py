"""`ratelimit-service migrate`: the database's schema."""

from typing import Annotated

import typer

from ratelimit_service.buckets.redis.rights import acl
from ratelimit_service.cli.database import database_errors, database_url
from ratelimit_service.cli.environment import load_settings, with_dev_stores
from ratelimit_service.cli.errors import CommandError, Exit, report_errors
from ratelimit_service.postgres.grants import grants
from ratelimit_service.postgres.migrate import upgrade
from ratelimit_service.postgres.schema import head, read_schema


def migrate(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would be done; change nothing.")] = False,
    print_grants: Annotated[
        bool,
        typer.Option(
            "--print-grants",
            help="Print, as SQL and as an ACL, the least rights that servers need in Postgres and Redis; do nothing "
            "else.",
        ),
    ] = False,
) -> None:
    """Migrate the database's schema to the revision that this program needs. Safe to run several times at once."""
    if print_grants:
        typer.echo(grants())
        typer.echo("\n".join(f"-- {line}" for line in acl().splitlines()))
        return
    with report_errors(), database_errors():
        url = database_url(with_dev_stores(load_settings()))
        found, wanted = read_schema(url), head()
        before = found.revision
        if before == wanted:
            typer.echo(f"the schema is already at revision {wanted}")
        elif found.is_newer and found.obstacle:
            raise CommandError(Exit.REFUSED, f"the schema {found.obstacle}")
        elif found.is_newer:
            typer.echo(
                f"the schema is at revision {before}, newer than the {wanted} of this program, which works on it"
            )
        elif dry_run:
            typer.echo(f"the schema is at revision {before or 'none'} and would be migrated to {wanted}")
        else:
            upgrade(url)
            typer.echo(f"the schema was migrated from revision {before or 'none'} to {wanted}")
