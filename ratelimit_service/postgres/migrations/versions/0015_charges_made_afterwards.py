"""Charges made afterwards: which domains have them, and the tokens of them that a limit did not take."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None
compatible_with = "0010"

_TABLES = [f"{table}_{level}" for table in ("usage", "usage_plan") for level in ("minute", "hour", "day")]


def upgrade() -> None:
    """Add the columns. A server of the version before does not write them: then they are null, or 0."""
    op.execute("""
        ALTER TABLE rule_versions ADD COLUMN charge text
            CONSTRAINT rule_versions_charge_check CHECK (charge IN ('if_allowed', 'always'));
        COMMENT ON COLUMN rule_versions.charge IS 'Null is if_allowed.';
    """)
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} ADD COLUMN clamped bigint DEFAULT 0")


def downgrade() -> None:
    """Drop them."""
    op.execute("ALTER TABLE rule_versions DROP COLUMN charge")
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} DROP COLUMN clamped")
