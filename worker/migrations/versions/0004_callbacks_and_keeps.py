"""Callbacks to owners, and slots that are kept for somebody."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "callbacks",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("target", sa.String(length=64), nullable=False),
        sa.Column("boot", sa.String(length=36), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("error", sa.String(length=512), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_callbacks")),
    )
    with op.batch_alter_table("callbacks", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_callbacks_boot"), ["boot"], unique=False)
        batch_op.create_index(batch_op.f("ix_callbacks_created_at"), ["created_at"], unique=False)
        batch_op.create_index("ix_callbacks_state_due", ["state", "due_at"], unique=False)

    op.create_table(
        "keeps",
        sa.Column("subject", sa.String(length=36), nullable=False),
        sa.Column("device", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.Column("project", sa.String(length=255), nullable=False),
        sa.Column("flavor", sa.String(length=255), nullable=False),
        sa.Column("host", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("subject", "device", name=op.f("pk_keeps")),
    )
    with op.batch_alter_table("keeps", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_keeps_device"), ["device"], unique=False)
        batch_op.create_index(batch_op.f("ix_keeps_until"), ["until"], unique=False)


def downgrade() -> None:
    op.drop_table("keeps")
    op.drop_table("callbacks")
