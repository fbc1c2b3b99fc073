"""What a schedule has to remember: when reports were due, who is at them, who was told."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the schedule's three tables."""
    moment = sa.DateTime(timezone=True)
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    values = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
    op.create_table(
        "schedules",
        sa.Column("report", sa.String(100), primary_key=True),
        sa.Column("since", moment, nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False),
    )
    op.create_table(
        "due_runs",
        sa.Column("report", sa.String(100), primary_key=True),
        sa.Column("as_of", moment, primary_key=True),
        sa.Column("parameters", sa.String(64), primary_key=True),
        sa.Column("notebook", sa.String(100), nullable=False),
        sa.Column("domain", sa.String(50), nullable=False),
        sa.Column("given", values, nullable=False),
        *_progress(moment),
        sa.Column("run_id", sa.String(100)),
        sa.Column("reason", sa.String),
        sa.Column("updated_at", moment, nullable=False),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", number, primary_key=True),
        sa.Column("run_id", sa.String(100), nullable=False),
        sa.Column("report", sa.String(100), nullable=False),
        sa.Column("channel", sa.String(20), nullable=False),
        sa.Column("target", sa.String(500), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("content", values, nullable=False),
        *_progress(moment),
        sa.Column("reason", sa.String),
        sa.Column("updated_at", moment, nullable=False),
        sa.UniqueConstraint("run_id", "channel", "target"),
    )


def _progress(moment: sa.DateTime) -> list[sa.Column[object]]:
    """Give what both kinds of work note about how far they are."""
    return [
        sa.Column("state", sa.String(20), nullable=False, index=True),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("owner", sa.String(200)),
        sa.Column("lease_until", moment),
        sa.Column("next_at", moment),
    ]
