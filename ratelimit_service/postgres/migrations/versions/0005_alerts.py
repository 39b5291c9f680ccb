"""Alerts, and the messages about them."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of alerts."""
    op.execute("""
        CREATE TABLE alerts (
            alert_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT alerts_pkey PRIMARY KEY,
            rule text NOT NULL,
            target text COLLATE "C" NOT NULL,
            limit_name text COLLATE "C" NOT NULL,
            level integer NOT NULL,
            summary text NOT NULL,
            detail jsonb NOT NULL,
            start_time timestamptz NOT NULL,
            update_time timestamptz NOT NULL,
            end_time timestamptz
        );
        COMMENT ON COLUMN alerts.end_time IS 'Absent while it is firing.';
        CREATE UNIQUE INDEX alerts_firing_key ON alerts (rule, target, limit_name) WHERE end_time IS NULL;
        CREATE INDEX alerts_end_time_idx ON alerts (end_time) WHERE end_time IS NOT NULL;

        CREATE TABLE alert_deliveries (
            delivery_id text COLLATE "C" CONSTRAINT alert_deliveries_pkey PRIMARY KEY,
            number bigint GENERATED ALWAYS AS IDENTITY NOT NULL CONSTRAINT alert_deliveries_number_key UNIQUE,
            alert_id bigint CONSTRAINT alert_deliveries_alert_id_fkey REFERENCES alerts (alert_id) ON DELETE CASCADE,
            event text NOT NULL,
            body text NOT NULL,
            state text NOT NULL CONSTRAINT alert_deliveries_state_check
                CHECK (state IN ('pending', 'delivered', 'given_up')),
            attempts integer NOT NULL,
            status integer NOT NULL,
            error text NOT NULL,
            create_time timestamptz NOT NULL,
            last_time timestamptz,
            next_time timestamptz
        );
        COMMENT ON TABLE alert_deliveries IS 'The messages to the webhook.';
        COMMENT ON COLUMN alert_deliveries.alert_id IS 'Absent for a test.';
        COMMENT ON COLUMN alert_deliveries.next_time IS 'Present while it is pending.';
        CREATE INDEX alert_deliveries_alert_id_number_idx ON alert_deliveries (alert_id, number);
        CREATE INDEX alert_deliveries_next_time_idx ON alert_deliveries (next_time) WHERE next_time IS NOT NULL;
    """)


def downgrade() -> None:
    """Drop them, with everything in them."""
    op.execute("DROP TABLE alert_deliveries, alerts;")
