"""Which of a version's models gave an answer: each promises something else."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Widen predictions; of answers from before it is not known."""
    op.add_column("predictions", sa.Column("part", sa.String(20)))
