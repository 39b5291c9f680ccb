"""How many limits rules have: distinguishes rules without any from a row that was blanked past the API."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None
compatible_with = "0010"


def upgrade() -> None:
    """Add the column. Rules that have no limit now are taken as meant; of others the number is not known.

    A server of the version before leaves it out: rules without any limit that somebody has it put in force are refused
    by servers of this version until they are written once more.
    """
    op.execute("""
        ALTER TABLE rule_versions ADD COLUMN limit_count integer;
        COMMENT ON COLUMN rule_versions.limit_count IS 'Limits on all levels: only where it is 0 may there be none.';
        UPDATE rule_versions SET limit_count = 0 WHERE NOT jsonb_path_exists(descriptors, 'lax $.**.limits[*]');
    """)


def downgrade() -> None:
    """Drop it."""
    op.execute("ALTER TABLE rule_versions DROP COLUMN limit_count")
