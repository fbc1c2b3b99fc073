"""Alarms have a state that outlasts what raised them: seen by whom, kept quiet until when."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the table of alarms."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "alarms",
        sa.Column("id", sa.String(8), primary_key=True),
        sa.Column("domain", sa.String(50), nullable=False, index=True),
        sa.Column("site", sa.String(50), nullable=False),
        sa.Column("subject", sa.String(100), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("since", sa.String(20), nullable=False),
        sa.Column("said", sa.String, nullable=False),
        sa.Column("advice", sa.String, nullable=False),
        sa.Column("noticed_at", moment, nullable=False),
        sa.Column("over_at", moment),
        sa.Column("acknowledged_at", moment),
        sa.Column("acknowledged_by", sa.String(100)),
        sa.Column("note", sa.String(500)),
        sa.Column("silenced_until", moment),
    )
