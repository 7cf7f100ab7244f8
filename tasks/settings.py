"""Settings, from the environment (`NIGHTCAST_*`) and nowhere else; secrets stay out of logs by type."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Where a home lies and how hard it may work.

    Attributes
    ----------
    home
        Folder of everything Nightcast keeps on this machine.
    store
        Where forecasts are published: a folder or `s3://bucket/prefix`; default `<home>/store`.
    mlflow_uri
        Tracking server; default a SQLite file in the home.
    processes
        Worker processes for fits; 0 runs them in this process.
    lease_seconds
        How long a dead night blocks the next attempt on another machine.
    keep_days
        Days after which intermediate files of a night (working folder, cached fits) are removed; None keeps all.
    deadline_seconds
        From the start of a night: when it passes, fits that have not begun are given up and what is there is
        published; None waits for all.
    """

    model_config = SettingsConfigDict(env_prefix="NIGHTCAST_", extra="ignore")

    home: Path = Path("nightcast-home")
    store: str | None = None
    mlflow_uri: str | None = None
    processes: int = Field(default_factory=lambda: max(1, min(os.cpu_count() or 1, 8)), ge=0)
    lease_seconds: float = Field(default=120, gt=0)
    keep_days: float | None = Field(default=14, gt=0)
    deadline_seconds: float | None = Field(default=None, gt=0)
    s3_endpoint_url: str | None = None
    s3_access_key_id: SecretStr | None = None
    s3_secret_access_key: SecretStr | None = None
    s3_region: str | None = None

    @cached_property
    def root(self) -> Path:
        """The home as an absolute path."""
        return self.home.expanduser().resolve()

    @property
    def store_url(self) -> str:
        """Where forecasts are published."""
        return self.store or str(self.root / "store")

    @property
    def tracking_uri(self) -> str:
        """Where MLflow keeps runs and the registry."""
        return self.mlflow_uri or f"sqlite:///{self.root / 'mlflow' / 'mlflow.db'}"

    @property
    def artifact_root(self) -> str | None:
        """Where MLflow keeps artifacts; None leaves it to a tracking server."""
        return None if self.mlflow_uri else (self.root / "mlflow" / "artifacts").as_uri()

    @property
    def cache(self) -> Path:
        """Results of finished units."""
        return self.root / "cache"

    @property
    def work(self) -> Path:
        """Intermediate files of nights."""
        return self.root / "work"

    @property
    def reports(self) -> Path:
        """Nightly pages."""
        return self.root / "reports"

    @property
    def services_file(self) -> Path:
        """Written by `nightcast up`: addresses of running services."""
        return self.root / "services.json"


def get_settings(home: Path | None = None) -> Settings:
    """Settings from the environment; `home` overrides `NIGHTCAST_HOME`."""
    return Settings() if home is None else Settings(home=home)
