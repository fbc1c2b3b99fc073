"""The tables, for SQLite and PostgreSQL alike; ``migrations`` makes them."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB


class UtcDateTime(TypeDecorator[datetime]):
    """A moment with its zone; SQLite knows no zones, so there it is kept as bare UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _: Dialect) -> datetime | None:
        """Write UTC."""
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, _: Dialect) -> datetime | None:
        """Read UTC."""
        if value is None or value.tzinfo:
            return value.astimezone(UTC) if value else None
        return value.replace(tzinfo=UTC)


_JSON = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
#: SQLite counts up only a plain INTEGER by itself.
_NUMBER = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _table(name: str, *columns: Any) -> Table:
    return Table(name, metadata, *columns)


users = _table(
    "users",
    Column("id", Uuid, primary_key=True),
    Column("email", String(255), unique=True),
    Column("created_at", UtcDateTime),
    Column("updated_at", UtcDateTime),
)
predictions = _table(
    "predictions",
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id")),
    Column("model_name", String(50)),
    Column("input_data", _JSON),
    Column("prediction", Float),
    Column("confidence", Float),
    Column("timestamp", UtcDateTime),
    Column("model_version", String(20)),
    Column("low", Float),
    Column("high", Float),
    Column("part", String(20)),  # which of the version's models; None: not noted
    Index(None, "user_id", "timestamp", "id"),  # a person's own, newest first
    Index(None, "timestamp"),  # what is due to be forgotten
)
metrics = _table(
    "metrics",
    Column("id", _NUMBER, primary_key=True),
    Column("model_name", String(50)),
    Column("request_time_ms", Integer),
    Column("prediction_latency_ms", Integer),
    Column("timestamp", UtcDateTime),
    Index(None, "model_name", "timestamp"),
)
api_keys = _table(
    "api_keys",
    Column("id", String(16), primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id"), nullable=False, index=True),
    Column("secret_hash", String(64), nullable=False),
    Column("scopes", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)
feedback = _table(
    "feedback",
    Column(
        "prediction_id", Uuid, ForeignKey("predictions.id", ondelete="CASCADE"), primary_key=True
    ),
    Column("observed", Float, nullable=False),
    Column("user_id", Uuid, ForeignKey("users.id", ondelete="SET NULL"), index=True),
    Column("created_at", UtcDateTime, nullable=False),
)
audit = _table(
    "audit",
    Column("id", _NUMBER, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, index=True),
    Column("details", _JSON, nullable=False),
)
#: What retention and erasure removed, as sums: the numbers outlive the answers.
daily = _table(
    "daily",
    Column("model_name", String(50), primary_key=True),
    Column("model_version", String(20), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("predictions", BigInteger, nullable=False),
    Column("observed", BigInteger, nullable=False),
    Column("abs_error", Float, nullable=False),
    Column("squared_error", Float, nullable=False),
    Column("correct", BigInteger, nullable=False),
)
#: How far each spool file was read, committed together with the rows read from it.
spool_files = _table(
    "spool_files",
    Column("name", String(100), primary_key=True),
    Column("imported_bytes", BigInteger, nullable=False),
)
#: Up to when the times of a report are noted, and whether it rests.
schedules = _table(
    "schedules",
    Column("report", String(100), primary_key=True),
    Column("since", UtcDateTime, nullable=False),
    Column("paused", Boolean, nullable=False),
)
#: What became of each time a report was due; who is at it holds a lease.
due_runs = _table(
    "due_runs",
    Column("report", String(100), primary_key=True),
    Column("as_of", UtcDateTime, primary_key=True),
    Column("parameters", String(64), primary_key=True),  # digest of notebook, domain and values
    Column("notebook", String(100), nullable=False),
    Column("domain", String(50), nullable=False),
    Column("given", _JSON, nullable=False),
    Column("state", String(20), nullable=False, index=True),
    Column("attempts", Integer, nullable=False),
    Column("owner", String(200)),
    Column("lease_until", UtcDateTime),
    Column("next_at", UtcDateTime),
    Column("run_id", String(100)),
    Column("reason", String),
    Column("updated_at", UtcDateTime, nullable=False),
)
#: Messages about runs: those that wait, and what became of the others.
deliveries = _table(
    "deliveries",
    Column("id", _NUMBER, primary_key=True),
    Column("run_id", String(100), nullable=False),
    Column("report", String(100), nullable=False),
    Column("channel", String(20), nullable=False),
    Column("target", String(500), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("content", _JSON, nullable=False),  # what it says, as it was when it was queued
    Column("state", String(20), nullable=False, index=True),
    Column("attempts", Integer, nullable=False),
    Column("owner", String(200)),
    Column("lease_until", UtcDateTime),
    Column("next_at", UtcDateTime),
    Column("reason", String),
    Column("updated_at", UtcDateTime, nullable=False),
    UniqueConstraint("run_id", "channel", "target"),
)
#: What was noticed and is or was wrong: a row for each episode, and what people made of it.
alarms = _table(
    "alarms",
    Column("id", String(8), primary_key=True),
    Column("domain", String(50), nullable=False, index=True),
    Column("site", String(50), nullable=False),
    Column("subject", String(100), nullable=False),  # an input, or a version and its part
    Column("kind", String(20), nullable=False),
    Column("since", String(20), nullable=False),  # by the station's clock
    Column("said", String, nullable=False),
    Column("advice", String, nullable=False),
    Column("noticed_at", UtcDateTime, nullable=False),
    Column("over_at", UtcDateTime),
    Column("acknowledged_at", UtcDateTime),
    Column("acknowledged_by", String(100)),
    Column("note", String(500)),
    Column("silenced_until", UtcDateTime),
)
