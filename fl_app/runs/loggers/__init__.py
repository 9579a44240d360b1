"""Loggers of a run's numbers: TensorBoard, Weights & Biases, MLflow; chosen by ``logger=``.

Each tool has one file, and is imported only when it is chosen. All numbers are in metrics.csv,
ledger.csv and summary.json too, without any logger. ``fl_app.runs.tracking`` calls the loggers;
``flat`` turns a nested configuration into one level of names.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
MODES = ("online", "offline")


class Logger(Protocol):
    """Sends the numbers of one run to one tool."""

    def __init__(self, cfg: DictConfig, folder: Path) -> None:
        """Start the run ``folder.name``, with ``cfg`` as its hyper-parameters."""

    def log(self, axis: str, step: int, values: dict[str, float]) -> None:
        """Add one point to every series of ``values``, at ``step`` on ``axis``.

        Parameters
        ----------
        axis : str
            "round" or "bytes_sent".
        """

    def finish(self, status: str, summary: dict[str, Any], files: list[Path]) -> None:
        """End the run.

        Parameters
        ----------
        status : str
            As in summary.json.
        summary : dict
            The content of summary.json as one level of names.
        files : list of Path
            Files of the run to store with it.
        """


def chosen(cfg: DictConfig) -> list[str]:
    """Return the names of the loggers that ``cfg`` selects."""
    return [str(name) for name in cfg.get("logger") or {}]


def load(name: str) -> Any:
    """Return the module of a logger.

    Raises
    ------
    ValueError
        If its package is not installed; the message says how to install it.
    """
    spec = find_spec(PACKAGES[name])
    if spec is None or spec.origin is None:  # without an origin it is a folder of that name
        raise ValueError(f"logger={name} needs a package: pip install 'thinwire[{name}]'")
    return import_module(f"fl_app.runs.loggers.{name}")


def check(cfg: DictConfig) -> None:
    """Check that every selected logger can start.

    Raises
    ------
    ValueError
        If something is missing, such as the package or a key; the message names it.
    """
    for name in chosen(cfg):
        load(name).check(cfg.logger[name])
