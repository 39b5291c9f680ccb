"""The <env> of keys, which is part of what a key is verified by."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Of secrets that are there already the <env> is not known, so any is accepted."""
    op.execute("""
        ALTER TABLE key_secrets ADD COLUMN environment text;
        COMMENT ON COLUMN key_secrets.environment IS
            'The <env> in the key, rlk_<env>_<id>_<secret>. Absent for secrets of earlier versions: any.';
    """)


def downgrade() -> None:
    """Drop it; any <env> is accepted again."""
    op.execute("ALTER TABLE key_secrets DROP COLUMN environment")
