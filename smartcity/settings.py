"""Where things live and listen: ``SMARTCITY_*`` variables, read once, frozen."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from smartcity.errors import UsageError


def _home() -> Path:
    """Give the project folder: the checkout this package sits in, or where the user stands."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "notebooks").is_dir() else Path.cwd()


#: Where containers find secrets as files, as in ``/run/secrets/smartcity_database_url``.
_SECRETS = Path("/run/secrets")


class Settings(BaseSettings):
    """Folders and ports of one installation; every field has a working default."""

    model_config = SettingsConfigDict(
        env_prefix="SMARTCITY_", frozen=True, secrets_dir=_SECRETS if _SECRETS.is_dir() else None
    )

    datasets: Path = Field(
        default_factory=lambda: _home() / "datasets" / "raw",
        description="Folder of readings, laid out as `<domain>/<published file>`",
    )
    demo: Path = Field(
        default_factory=lambda: _home() / "datasets" / "demo",
        description="Folder of the simulated demo city",
    )
    notebooks: Path = Field(
        default_factory=lambda: _home() / "notebooks", description="Folder of the notebooks"
    )
    models: Path = Field(
        default_factory=lambda: _home() / "models", description="Folder of published models"
    )
    reports: Path = Field(
        default_factory=lambda: _home() / "reports", description="Folder of notebook runs"
    )
    logs: Path = Field(
        default_factory=lambda: _home() / "logs", description="Folder of the log file"
    )
    state: Path = Field(
        default_factory=lambda: _home() / "state",
        description="Folder of the database file, and of the answers waiting to enter it",
    )
    domains: Path | None = Field(
        default=None, description="Folder with more domain TOML files, beside the three shipped"
    )
    host: str = Field(default="127.0.0.1", description="Address the servers listen on")
    api_port: int = Field(default=8000, ge=1, le=65535, description="Port of the HTTP API")
    dashboard_port: int = Field(default=8501, ge=1, le=65535, description="Port of the dashboard")
    api_url: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="Where the dashboard asks the API how it is; host and port when left out",
    )
    public_url: str = Field(
        default="https://localhost:8443",
        pattern=r"^https://[\w.-]+(:\d{1,5})?$",
        description="Where people open the city: nginx's name and port, as in `https://a.city`",
    )
    http_port: int = Field(
        default=8080, ge=1, le=65535, description="Port on which nginx sends people on to HTTPS"
    )
    certificate: Path | None = Field(
        default=None, description="File with nginx's certificate and those that vouch for it"
    )
    certificate_key: Path | None = Field(
        default=None, description="File with the certificate's private key"
    )
    api_backends: str = Field(
        default="",
        pattern=r"^([\w.-]+:\d+ *)*$",
        description="APIs behind nginx, as in `127.0.0.1:8000 127.0.0.1:8001`; host and port when "
        "left out",
    )
    dashboard_backends: str = Field(
        default="",
        pattern=r"^([\w.-]+:\d+ *)*$",
        description="Dashboards behind nginx; host and port when left out",
    )
    jobs: int = Field(
        default=2, ge=1, le=256, description="Notebooks run, and models fitted, at the same time"
    )
    backend: Literal["loky", "threading", "sequential"] = Field(
        default="loky", description="What spreads work: processes, threads, or nothing"
    )
    scheduler: str = Field(
        default="",
        pattern=r"^((tcp|tls|ws|wss|inproc)://\S+)?$",
        description="Dask cluster that work is spread over instead, as in `tcp://host:8786`",
    )
    schedule: bool = Field(
        default=True, description="Let `smartcity up` make the reports that are due"
    )

    database_url: SecretStr | None = Field(
        default=None,
        description="Database, as in `postgresql://user:password@host/name`; a file in the state "
        "folder when left out",
    )
    retention_days: int = Field(
        default=365, ge=0, description="Days an answer is kept; 0 keeps all. Daily sums stay"
    )
    recording: bool = Field(default=True, description="Keep every prediction the API gives")
    spool_mb: int = Field(
        default=1024, ge=1, description="Most that may wait for the database; then 503"
    )
    sync_seconds: float = Field(
        default=1.0, ge=0, le=60, description="Longest an answer may be lost to a power cut"
    )
    metrics_share: float = Field(
        default=1.0, ge=0, le=1, description="Share of requests kept in the metrics table"
    )
    require_key: bool = Field(default=False, description="Answer only requests with an API key")
    rate_limit: str = Field(
        default="6000/minute", description="Requests of one address; `off` for no limit"
    )
    key_rate_limit: str = Field(
        default="60000/minute", description="Requests of one API key; `off` for no limit"
    )
    redis_url: SecretStr | None = Field(
        default=None, description="Redis that shares the limits among workers and machines"
    )
    cors_origins: str = Field(
        default="", description="Pages that may call the API, as in `https://a.city https://b.city`"
    )
    body_mb: float = Field(default=4, gt=0, le=1024, description="Largest request body")
    cache_rows: int = Field(
        default=20_000, ge=0, description="Answers per question a worker keeps to give again"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        default="INFO", description="Least severe event that is logged"
    )
    dashboard_sessions: int = Field(
        default=60, ge=1, le=120, description="Visitors the dashboard serves at the same time"
    )
    dashboard_token: SecretStr | None = Field(
        default=None, description="Token without which nobody sees the dashboard"
    )
    dashboard_user_header: str = Field(
        default="",
        pattern=r"^[\w-]*$",
        description="Header in which a proxy names the visitor; who comes without it is refused",
    )
    dashboard_base_url: str = Field(
        default="/",
        pattern=r"^/([\w.~-]+/)*$",
        description="Path of the dashboard, as in `/city/`, where a proxy shares its address",
    )
    dashboard_requests: bool = Field(
        default=True,
        description="Let visitors ask for a report; where the scheduler runs it is made",
    )
    deliver: bool = Field(
        default=False, description="Send mails and webhooks; else they go to `reports/outbox/`"
    )
    mail_url: SecretStr | None = Field(
        default=None,
        description="Mail server, as in `smtp://user:password@host:587` (STARTTLS) or "
        "`smtps://user:password@host:465`",
    )
    mail_from: str = Field(
        default="SmartCity <smartcity@localhost>",
        pattern=r"^[^\r\n]*[^\s@]@[^\s@]+$",
        description="Sender of mails",
    )
    webhook_secret: SecretStr | None = Field(
        default=None,
        description="Signs what webhooks get: HMAC-SHA256 in the header `X-Hub-Signature-256`",
    )
    reports_url: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="Where people open the reports folder; messages link there when it is known",
    )
    backup_repository: SecretStr | None = Field(
        default=None,
        description="Where backups go: a folder, or what restic calls a repository, as in "
        "`sftp:user@host:/folder` or `s3:https://host/bucket`",
    )
    backup_password: SecretStr | None = Field(
        default=None, description="Encrypts the backups; without it none can be read again"
    )

    @field_validator(
        *("datasets", "demo", "notebooks", "models", "reports", "logs", "state", "domains"),
        *("certificate", "certificate_key"),
    )
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        """Fix a relative folder to where the command was given: kernels run elsewhere."""
        return path.expanduser().absolute() if path is not None else None

    def origin(self, field: str) -> str:
        """Tell where a setting came from: its variable's name, or ``default``."""
        return f"SMARTCITY_{field.upper()}" if field in self.model_fields_set else "default"

    def export(self) -> None:
        """Put the resolved folders into this process's environment, for kernels to inherit."""
        for field in self.model_fields_set:
            value = getattr(self, field)
            plain = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            os.environ[f"SMARTCITY_{field.upper()}"] = plain


@lru_cache
def current() -> Settings:
    """Read the settings of this process, once.

    Raises:
        UsageError: A variable has a value that does not fit; the message names it.
    """
    try:
        return Settings()
    except ValidationError as error:
        faults = [
            f"SMARTCITY_{str(fault['loc'][0]).upper()}={fault['input']!r}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise UsageError("Settings do not fit. " + "; ".join(faults)) from None
