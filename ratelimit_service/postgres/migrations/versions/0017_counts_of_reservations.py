"""Usage: how many calls reserved, and how many of these reservations were settled with an actual cost."""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None
compatible_with = "0010"

_TABLES = [f"{table}_{level}" for table in ("usage", "usage_plan") for level in ("minute", "hour", "day")]


def upgrade() -> None:
    """Add the columns. A server of the version before does not write them: then they are null, or 0."""
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} ADD COLUMN reserved bigint DEFAULT 0, ADD COLUMN settled bigint DEFAULT 0")


def downgrade() -> None:
    """Drop them."""
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} DROP COLUMN reserved, DROP COLUMN settled")
