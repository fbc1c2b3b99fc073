"""What keeping answers takes beyond the specification: keys, feedback, audit, sums, the spool."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Widen predictions and add the tables beside it."""
    moment = sa.DateTime(timezone=True)
    with op.batch_alter_table("predictions") as predictions:
        predictions.add_column(sa.Column("model_version", sa.String(20)))
        predictions.add_column(sa.Column("low", sa.Float))
        predictions.add_column(sa.Column("high", sa.Float))
    op.create_index(None, "predictions", ["user_id", "timestamp", "id"])
    op.create_index(None, "predictions", ["timestamp"])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), nullable=False, index=True),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("scopes", sa.String, nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("expires_at", moment),
        sa.Column("revoked_at", moment),
    )
    prediction = sa.ForeignKey("predictions.id", ondelete="CASCADE")
    op.create_table(
        "feedback",
        sa.Column("prediction_id", sa.Uuid, prediction, primary_key=True),
        sa.Column("observed", sa.Float, nullable=False),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id", ondelete="SET NULL"), index=True),
        sa.Column("created_at", moment, nullable=False),
    )
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "audit",
        sa.Column("id", number, primary_key=True),
        sa.Column("at", moment, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("subject", sa.String, index=True),
        sa.Column("details", sa.JSON().with_variant(JSONB(), "postgresql"), nullable=False),
    )
    op.create_table(
        "daily",
        sa.Column("model_name", sa.String(50), primary_key=True),
        sa.Column("model_version", sa.String(20), primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("predictions", sa.BigInteger, nullable=False),
        sa.Column("observed", sa.BigInteger, nullable=False),
        sa.Column("abs_error", sa.Float, nullable=False),
        sa.Column("squared_error", sa.Float, nullable=False),
        sa.Column("correct", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "spool_files",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("imported_bytes", sa.BigInteger, nullable=False),
    )
