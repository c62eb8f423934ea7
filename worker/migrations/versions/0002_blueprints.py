"""What a boot's server is created from, and whether its failed server was deleted ahead of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("boots") as boots:
        boots.add_column(sa.Column("blueprint", sa.JSON(), nullable=True))
        boots.add_column(sa.Column("removed_at", sa.Double(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("boots") as boots:
        boots.drop_column("removed_at")
        boots.drop_column("blueprint")
