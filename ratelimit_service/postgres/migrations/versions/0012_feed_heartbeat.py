"""The heartbeat of the change feed, and which versions of the program work on a schema."""

from alembic import op

from ratelimit_service.postgres.migrations.inherited_grants import grant_as_for

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
compatible_with = "0010"
"""Programs that need this revision or a later one work on the schema after this migration."""


def upgrade() -> None:
    """Create both. Who may read or write changes may do so with the heartbeat: a role from before goes on working."""
    op.execute("""
        CREATE TABLE feed_heartbeat (
            only_row boolean DEFAULT true
                CONSTRAINT feed_heartbeat_pkey PRIMARY KEY
                CONSTRAINT feed_heartbeat_only_row_check CHECK (only_row),
            time timestamptz NOT NULL
        );
        COMMENT ON TABLE feed_heartbeat IS
            'Renewed once a second by a control plane, and read with changes: so readers know how old they are.';
        CREATE TABLE schema_compatibility (
            only_row boolean DEFAULT true
                CONSTRAINT schema_compatibility_pkey PRIMARY KEY
                CONSTRAINT schema_compatibility_only_row_check CHECK (only_row),
            revision text NOT NULL,
            works_since text NOT NULL
        );
        COMMENT ON TABLE schema_compatibility IS
            'Programs that need revision works_since or a later one work on the schema of this revision.';
    """)
    op.execute(grant_as_for("changes", "feed_heartbeat", writing="SELECT, INSERT, UPDATE"))
    op.execute(grant_as_for("alembic_version", "schema_compatibility", writing="SELECT"))


def downgrade() -> None:
    """Drop both."""
    op.execute("DROP TABLE schema_compatibility; DROP TABLE feed_heartbeat")
