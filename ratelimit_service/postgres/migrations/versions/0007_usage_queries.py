"""What makes questions about usage cheap: a sum without numeric, the hours of a day; and how far usage is complete."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create them. Of days that are there already, no hour is known to be without counts."""
    op.execute("""
        CREATE AGGREGATE usage_sum(bigint) (
            SFUNC = int8pl, STYPE = bigint, COMBINEFUNC = int8pl, PARALLEL = SAFE
        );
        COMMENT ON AGGREGATE usage_sum(bigint) IS
            'As sum, which adds in numeric and takes twice as long; fails beyond the range of bigint.';

        ALTER TABLE usage_day ADD COLUMN hours integer NOT NULL DEFAULT 16777215;
        COMMENT ON COLUMN usage_day.hours IS 'The hours of the day that have counts: bit 0 is that from midnight.';

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
    """Drop them; the next flush knows again how far usage is complete."""
    op.execute("""
        DROP TABLE usage_coverage;
        ALTER TABLE usage_day DROP COLUMN hours;
        DROP AGGREGATE usage_sum(bigint);
    """)
