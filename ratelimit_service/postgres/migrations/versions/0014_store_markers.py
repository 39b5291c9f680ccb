"""The markers of the bucket store, by which it is noticed that it has lost its data."""

from alembic import op

from ratelimit_service.postgres.migrations.inherited_grants import grant_as_for

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None
compatible_with = "0010"


def upgrade() -> None:
    """Create the table. Who may write usage may write it."""
    op.execute("""
        CREATE TABLE store_markers (
            tag text COLLATE "C" CONSTRAINT store_markers_pkey PRIMARY KEY,
            marker text NOT NULL
        );
        COMMENT ON TABLE store_markers IS
            'Of the bucket store when all that was known of quotas was in it. With another one it has lost data.';
    """)
    op.execute(grant_as_for("usage_segments", "store_markers", writing="SELECT, INSERT, UPDATE"))


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP TABLE store_markers")
