"""Demand is recorded and learnt from; programs that served nothing are told.

Revision ID: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "request_kinds",
        sa.Column("key", sa.String(length=32), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("device_profile", sa.String(length=255), nullable=True),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_request_kinds")),
    )
    op.create_table(
        "demand",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("server", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("arrived_at", sa.Double(), nullable=False),
        sa.Column("failed", sa.Boolean(), nullable=False),
        sa.Column("placed_at", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("counted", sa.Boolean(), nullable=False),
        sa.Column("end_counted", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["kind"], ["request_kinds.key"], name=op.f("fk_demand_kind_request_kinds")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_demand")),
        sa.UniqueConstraint("server", name=op.f("uq_demand_server")),
    )
    for column in ("arrived_at", "ended_at"):
        op.create_index(op.f(f"ix_demand_{column}"), "demand", [column])
    for column in ("counted", "end_counted"):
        op.create_index(
            f"ix_demand_not_{column}",
            "demand",
            ["id"],
            sqlite_where=sa.text(f"NOT {column}"),
            postgresql_where=sa.text(f"NOT {column}"),
        )
    op.create_table(
        "history",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("outlook", sa.JSON(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_history")),
    )
    with op.batch_alter_table("devices") as table:
        table.add_column(sa.Column("unserved", sa.String(length=36), nullable=True))
    with op.batch_alter_table("changeovers") as table:
        table.add_column(sa.Column("undoes", sa.String(length=36), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("changeovers") as table:
        table.drop_column("undoes")
    with op.batch_alter_table("devices") as table:
        table.drop_column("unserved")
    for name in ("history", "demand", "request_kinds"):
        op.drop_table(name)
