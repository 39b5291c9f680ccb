"""Labels of keys, old values in the audit log, and indexes for what admins filter by."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, with defaults for servers that do not know them, and the indexes.

    What takes long comes first, so that the exclusive lock of the tables, which stops readers too, is held briefly.
    """
    op.execute("""
        CREATE INDEX audit_events_actor_event_id_idx ON audit_events (actor, event_id);
        CREATE INDEX audit_events_action_event_id_idx ON audit_events (action, event_id);
        CREATE INDEX audit_events_time_idx ON audit_events (time);
        CREATE INDEX audit_events_target_prefix_idx ON audit_events (target text_pattern_ops);

        CREATE INDEX keys_state_number_idx ON keys (state, number);
        CREATE INDEX keys_subject_prefix_idx ON keys (subject text_pattern_ops);
        CREATE INDEX keys_expire_time_idx ON keys (expire_time) WHERE expire_time IS NOT NULL;

        ALTER TABLE audit_events ADD COLUMN previous jsonb NOT NULL DEFAULT '{}'::jsonb;
        COMMENT ON COLUMN audit_events.previous IS 'The values before, of the fields that changed.';

        ALTER TABLE keys ADD COLUMN labels jsonb NOT NULL DEFAULT '{}'::jsonb;
        COMMENT ON COLUMN keys.labels IS 'Texts by name.';
        CREATE INDEX keys_labels_idx ON keys USING gin (labels jsonb_path_ops);
    """)


def downgrade() -> None:
    """Drop them, with the labels and old values in them."""
    op.execute("""
        DROP INDEX keys_state_number_idx, keys_subject_prefix_idx, keys_expire_time_idx;
        DROP INDEX audit_events_actor_event_id_idx, audit_events_action_event_id_idx, audit_events_time_idx,
            audit_events_target_prefix_idx;
        ALTER TABLE keys DROP COLUMN labels;
        ALTER TABLE audit_events DROP COLUMN previous;
    """)
