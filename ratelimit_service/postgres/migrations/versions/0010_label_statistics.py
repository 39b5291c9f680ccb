"""Statistics of labels that distinguish a rare label from a common one."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Keep ten times as many: 1,000 sets of labels in place of 100.

    A label that one key in 1,000 has is taken for one in 100 when it happens to be among 100 sets, and the list of its
    keys then reads all keys in the order of their numbers in place of the index of labels.
    """
    op.execute("ALTER TABLE keys ALTER COLUMN labels SET STATISTICS 1000")


def downgrade() -> None:
    """Keep as many as of other columns."""
    op.execute("ALTER TABLE keys ALTER COLUMN labels SET STATISTICS -1")
