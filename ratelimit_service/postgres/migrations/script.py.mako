"""${message}."""

import sqlalchemy as sa
from alembic import op

${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None
compatible_with = ${repr(up_revision)}
"""Programs that need this revision or a later one work on the schema after this migration. Only what expands the schema
may name an earlier one than its own."""


def upgrade() -> None:
    """${message}."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Undo it."""
    ${downgrades if downgrades else "pass"}
