"""Sessions of the console."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table of sessions, each by the digest of what its cookie holds."""
    op.execute("""
        CREATE TABLE console_sessions (
            digest bytea CONSTRAINT console_sessions_pkey PRIMARY KEY,
            token_id text COLLATE "C" NOT NULL
                CONSTRAINT console_sessions_token_id_fkey REFERENCES admin_tokens (token_id),
            create_time timestamptz NOT NULL,
            expire_time timestamptz NOT NULL
        );
        COMMENT ON COLUMN console_sessions.digest IS 'SHA-256 of the value in the cookie.';
    """)


def downgrade() -> None:
    """Drop the table: everyone has to sign in again."""
    op.execute("DROP TABLE console_sessions")
