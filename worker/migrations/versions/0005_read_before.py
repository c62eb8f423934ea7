"""What a device's driver read before it was programmed: a report that is older proves nothing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("changeovers") as table:
        table.add_column(sa.Column("read_before", sa.String(length=128), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("changeovers") as table:
        table.drop_column("read_before")
