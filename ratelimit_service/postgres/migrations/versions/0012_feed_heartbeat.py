"""The heartbeat of the change feed, and which versions of the program work on a schema."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
compatible_with = "0010"
"""Programs that need this revision or a later one work on the schema after this migration."""

_LIKE = """
    DO $$ DECLARE granted record; BEGIN
        FOR granted IN
            SELECT DISTINCT privilege_type AS privilege,
                CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS who
            FROM pg_class, aclexplode(relacl)
            WHERE pg_class.oid = '{like}'::regclass AND grantee <> relowner AND privilege_type IN ('SELECT', 'INSERT')
        LOOP
            EXECUTE format('GRANT %s ON {table} TO %s',
                CASE granted.privilege WHEN 'SELECT' THEN 'SELECT' ELSE '{insert}' END, granted.who);
        END LOOP;
    END $$;
"""


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
    op.execute(_LIKE.format(table="feed_heartbeat", like="changes", insert="SELECT, INSERT, UPDATE"))
    op.execute(_LIKE.format(table="schema_compatibility", like="alembic_version", insert="SELECT"))


def downgrade() -> None:
    """Drop both."""
    op.execute("DROP TABLE schema_compatibility; DROP TABLE feed_heartbeat")
