"""The lock of all writers as a row, which only those who may write can lock."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create it. Servers of earlier versions, which take an advisory lock, take it by triggers as well.

    A trigger of a statement runs before the numbers of its rows are drawn, so numbers are in commit order whichever
    versions write beside each other. It has the rights of its owner: a role from before this migration goes on writing.
    """
    op.execute("""
        CREATE TABLE write_lock (
            only_row boolean DEFAULT true
                CONSTRAINT write_lock_pkey PRIMARY KEY
                CONSTRAINT write_lock_only_row_check CHECK (only_row)
        );
        COMMENT ON TABLE write_lock IS
            'Whoever adds to keys, audit_events or changes locks its row first: so their numbers are in commit order.';
        INSERT INTO write_lock DEFAULT VALUES;

        CREATE FUNCTION take_write_lock() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog AS $$
        BEGIN
            EXECUTE format('SELECT FROM %I.write_lock FOR UPDATE', TG_TABLE_SCHEMA);
            RETURN NULL;
        END $$;
        -- Whoever may execute it could make a trigger of it on a table of their own, beside a write_lock of their own
        -- that runs what they like with the owner's rights. Triggers that exist need no right to it.
        REVOKE ALL ON FUNCTION take_write_lock() FROM PUBLIC;
        CREATE TRIGGER take_write_lock BEFORE INSERT ON keys
            FOR EACH STATEMENT EXECUTE FUNCTION take_write_lock();
        CREATE TRIGGER take_write_lock BEFORE INSERT ON audit_events
            FOR EACH STATEMENT EXECUTE FUNCTION take_write_lock();
        CREATE TRIGGER take_write_lock BEFORE INSERT ON changes
            FOR EACH STATEMENT EXECUTE FUNCTION take_write_lock();
    """)


def downgrade() -> None:
    """Drop it. No server of this version may run then: it does not take the advisory lock."""
    op.execute("""
        DROP TRIGGER take_write_lock ON changes;
        DROP TRIGGER take_write_lock ON audit_events;
        DROP TRIGGER take_write_lock ON keys;
        DROP FUNCTION take_write_lock;
        DROP TABLE write_lock;
    """)
