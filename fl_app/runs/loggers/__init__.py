"""Where a run's numbers go while it runs: TensorBoard, Weights & Biases, MLflow; ``logger=``.

One file a tool, and the tool is imported only when it is chosen. What the loggers are told is in
metrics.csv, ledger.csv and summary.json too, which need none of them.

- ``tracking``: what is told, when, and what happens when a logger fails.
- ``flat``: a nested configuration as one level of names.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
MODES = ("online", "offline")


class Logger(Protocol):
    """One tool; the numbers of one run."""

    def __init__(self, cfg: DictConfig, folder: Path) -> None:
        """Begin the run ``folder.name``, with ``cfg`` as its hyper-parameters."""

    def log(self, axis: str, step: int, values: dict[str, float]) -> None:
        """Add one point to every series of ``values``, at ``step`` of "round" or "bytes_sent"."""

    def finish(self, status: str, summary: dict[str, Any], files: list[Path]) -> None:
        """End the run; ``status`` is that of summary.json, which ``summary`` holds."""


def chosen(cfg: DictConfig) -> list[str]:
    """Return the names of the loggers that ``cfg`` asks for."""
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
    """Check that every logger that is asked for can start.

    Raises
    ------
    ValueError
        Saying what is missing: the package, or what the tool needs to let one in.
    """
    for name in chosen(cfg):
        load(name).check(cfg.logger[name])
