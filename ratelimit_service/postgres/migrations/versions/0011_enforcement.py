"""The switch that turns every limit into a shadow limit for a while."""

from alembic import op

from ratelimit_service.postgres.migrations.inherited_grants import grant_as_for

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None
compatible_with = "0010"


def upgrade() -> None:
    """Create it, with its only row: limits refuse. Servers of earlier versions do not read it.

    Who may read or write changes may do so with the switch: a role from before goes on working.
    """
    op.execute("""
        CREATE TABLE enforcement (
            only_row boolean DEFAULT true
                CONSTRAINT enforcement_pkey PRIMARY KEY
                CONSTRAINT enforcement_only_row_check CHECK (only_row),
            off_until timestamptz,
            actor text NOT NULL,
            comment text NOT NULL,
            update_time timestamptz NOT NULL,
            CONSTRAINT enforcement_off_until_check
                CHECK (off_until > update_time AND off_until <= update_time + interval '24 hours'),
            CONSTRAINT enforcement_update_time_check
                CHECK (update_time >= to_timestamp(0) AND update_time < timestamptz '9000-01-01 00:00:00+00')
        );
        COMMENT ON COLUMN enforcement.off_until IS 'No limit refuses before. Absent: limits refuse.';
        INSERT INTO enforcement (actor, comment, update_time) VALUES ('', '', to_timestamp(0));
    """)
    op.execute(grant_as_for("changes", "enforcement", writing="SELECT, INSERT, UPDATE"))


def downgrade() -> None:
    """Drop it. Limits refuse."""
    op.execute("DROP TABLE enforcement")
