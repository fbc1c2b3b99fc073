"""The specification's three tables, with zones on their timestamps."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make users, predictions and metrics."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("email", sa.String(255), unique=True),
        sa.Column("created_at", moment),
        sa.Column("updated_at", moment),
    )
    op.create_table(
        "predictions",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id")),
        sa.Column("model_name", sa.String(50)),
        sa.Column("input_data", sa.JSON().with_variant(JSONB(), "postgresql")),
        sa.Column("prediction", sa.Float),
        sa.Column("confidence", sa.Float),
        sa.Column("timestamp", moment),
    )
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "metrics",
        sa.Column("id", number, primary_key=True),
        sa.Column("model_name", sa.String(50)),
        sa.Column("request_time_ms", sa.Integer),
        sa.Column("prediction_latency_ms", sa.Integer),
        sa.Column("timestamp", moment),
    )
    op.create_index(None, "metrics", ["model_name", "timestamp"])
