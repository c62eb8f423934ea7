"""Boots that were asked for: no server failed, somebody's trust, and the same request only once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("boots") as boots:
        boots.add_column(
            sa.Column("origin", sa.String(length=16), nullable=False, server_default="failure")
        )
        boots.add_column(sa.Column("trust", sa.String(length=64), nullable=True))
        boots.add_column(sa.Column("submission", sa.String(length=48), nullable=True))
        boots.alter_column("server", existing_type=sa.String(length=36), nullable=True)
        boots.create_unique_constraint(op.f("uq_boots_submission"), ["submission"])
    with op.batch_alter_table("boots") as boots:
        boots.alter_column("origin", server_default=None)


def downgrade() -> None:
    # What was asked for has no form in the schema of before.
    op.execute("DELETE FROM promises WHERE boot IN (SELECT id FROM boots WHERE server IS NULL)")
    op.execute("DELETE FROM boots WHERE server IS NULL")
    with op.batch_alter_table("boots") as boots:
        boots.drop_constraint(op.f("uq_boots_submission"), type_="unique")
        boots.alter_column("server", existing_type=sa.String(length=36), nullable=False)
        boots.drop_column("submission")
        boots.drop_column("trust")
        boots.drop_column("origin")
