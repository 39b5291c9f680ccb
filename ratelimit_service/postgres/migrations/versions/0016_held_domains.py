"""Domains whose calls with an API key are held as reservations."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None
compatible_with = "0010"


def upgrade() -> None:
    """Add the column. A server of the version before neither writes nor reads it: it holds no calls."""
    op.execute("""
        ALTER TABLE rule_versions ADD COLUMN hold bigint;
        COMMENT ON COLUMN rule_versions.hold IS
            'Microseconds for which calls with an API key are reserved. Null: not at all.';
    """)


def downgrade() -> None:
    """Drop it."""
    op.execute("ALTER TABLE rule_versions DROP COLUMN hold")
