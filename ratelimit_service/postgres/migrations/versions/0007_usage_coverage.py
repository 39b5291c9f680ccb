"""How far usage is complete."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, of one row."""
    op.execute("""
        CREATE TABLE usage_coverage (
            only_row boolean DEFAULT true
                CONSTRAINT usage_coverage_pkey PRIMARY KEY
                CONSTRAINT usage_coverage_only_row_check CHECK (only_row),
            complete_until timestamptz NOT NULL
        );
        COMMENT ON TABLE usage_coverage IS
            'The time before which all that the bucket store has counted is in these tables.';
    """)


def downgrade() -> None:
    """Drop it; the next flush knows it again."""
    op.execute("DROP TABLE usage_coverage")
