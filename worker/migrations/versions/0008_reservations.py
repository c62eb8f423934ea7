"""Reservations of leases, as they were read last."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reservations",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("starts_at", sa.Double(), nullable=False),
        sa.Column("reservation", sa.JSON(), nullable=False),
        sa.Column("read_at", sa.Double(), nullable=False),
        sa.Column("reason", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservations")),
    )
    with op.batch_alter_table("reservations", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_reservations_starts_at"), ["starts_at"], unique=False)


def downgrade() -> None:
    op.drop_table("reservations")
