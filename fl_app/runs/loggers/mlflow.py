"""MLflow: a tracking server, or a local database beside the runs, ``runs/mlflow.db``."""

import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock
from omegaconf import DictConfig
from sqlalchemy.exc import SADeprecationWarning

from fl_app.config import plain
from fl_app.runs.loggers.flat import flat

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # all three are read on import
# With these, an unreachable server delays a round by seconds, not by many minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

STATUSES = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
BATCH = 100  # parameters in one request


def check(options: DictConfig) -> None:
    """Check that the URI contains no password: config.yaml may be shown to others.

    Raises
    ------
    ValueError
        If it contains one.
    """
    uri = urlsplit(options.tracking_uri or "")
    if uri.password is not None or (uri.username is not None and uri.scheme.startswith("http")):
        raise ValueError(
            "logger.mlflow.tracking_uri contains a password, and config.yaml stores the URI: leave "
            "it out and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )


class Logger:
    """One run of the experiment, through MLflow's client, which has no global active run."""

    def __init__(self, cfg: DictConfig, folder: Path) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it logs how it makes its tables
        warnings.filterwarnings("ignore", category=SADeprecationWarning)  # for MLflow's authors
        options, home = cfg.logger.mlflow, folder.parent
        if options.tracking_uri:
            self.client = MlflowClient(options.tracking_uri)
            experiment = self._experiment(options.experiment_name, None)
        else:
            with FileLock(home / "mlflow.db.lock"):  # MLflow lets two runs make the tables at once
                self.client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
                files = (home / "mlflow-files").as_uri()
                experiment = self._experiment(options.experiment_name, files)
        self.run = self.client.create_run(experiment, run_name=folder.name).info.run_id
        params = [Param(key, str(value)) for key, value in flat(plain(cfg), ".").items()]
        for first in range(0, len(params), BATCH):
            self.client.log_batch(self.run, params=params[first : first + BATCH])

    def _experiment(self, name: str, files: str | None) -> str:
        """Return the id of the experiment; another run may create it at the same time."""
        try:
            return self.client.create_experiment(name, artifact_location=files)
        except MlflowException:
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def log(self, axis: str, step: int, values: dict[str, float]) -> None:
        """Add one value to each series, in one request."""
        now = int(1000 * time.time())
        points = [Metric(name, float(value), now, step) for name, value in values.items()]
        self.client.log_batch(self.run, metrics=points)

    def finish(self, status: str, summary: dict[str, Any], files: list[Path]) -> None:
        """End the run as FINISHED, FAILED or KILLED; this is set even if the rest fails."""
        now = int(1000 * time.time())
        numbers = {k: float(v) for k, v in summary.items() if isinstance(v, (int, float))}
        texts = {k: str(v) for k, v in summary.items() if k not in numbers}
        try:
            self.client.log_batch(
                self.run,
                metrics=[Metric(f"summary/{k}", v, now, 0) for k, v in numbers.items()],
                tags=[RunTag(k, v) for k, v in texts.items()],
            )
            for file in files:
                self.client.log_artifact(self.run, str(file))
        finally:
            self.client.set_terminated(self.run, STATUSES[status])
