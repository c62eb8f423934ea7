"""When the trust that was made for a request was taken back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("boots") as boots:
        boots.add_column(sa.Column("trust_withdrawn_at", sa.Double(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("boots") as boots:
        boots.drop_column("trust_withdrawn_at")
