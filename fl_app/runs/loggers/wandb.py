"""Weights & Biases: online, or offline in ``RUN/wandb/`` for a later ``wandb sync``."""

import os
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from requests.utils import get_netrc_auth

from fl_app.config import plain

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read on import

import wandb

AXES = {
    "round": ("test/*", "unseen/*", "bytes/*", "seconds/*"),
    "bytes_sent": ("over_bytes/*",),
}
EXIT_CODES = {"completed": 0, "failed": 1, "interrupted": 130}
FINISH_SECONDS = 60  # time to upload the rest; what is left stays on disk, for `wandb sync`


def check(options: DictConfig) -> None:
    """Check that there is a key: wandb would ask for it on a terminal, which a server lacks.

    Raises
    ------
    ValueError
        If the run is to be online and there is no key.
    """
    if options.mode == "offline":
        return
    settings = wandb.Settings()
    settings.update_from_system_settings()
    settings.update_from_env_vars(dict(os.environ))
    known = settings.api_key or settings.identity_token_file or get_netrc_auth(settings.base_url)
    if not known:
        raise ValueError(
            f"logger.wandb.mode=online needs a key for {settings.base_url}: run `wandb login`, or "
            "set WANDB_API_KEY, or logger.wandb.mode=offline"
        )


class Logger:
    """One run; its history has a row per call of ``log``."""

    def __init__(self, cfg: DictConfig, folder: Path) -> None:
        options = cfg.logger.wandb
        self.folder = folder
        self.run = wandb.init(
            project=options.project,
            entity=options.entity,
            group=options.group,
            tags=plain(options.tags),
            mode=options.mode,
            name=folder.name,
            dir=folder,
            config=plain(cfg),
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",  # do not capture Flower's log, which is the server's console
                disable_git=True,
                disable_code=True,
                x_save_requirements=False,
                finish_timeout=FINISH_SECONDS,
            ),
        )
        for axis, names in AXES.items():
            for name in names:
                self.run.define_metric(name, step_metric=axis)

    def log(self, axis: str, step: int, values: dict[str, float]) -> None:
        """Add one row to the history; another process uploads it."""
        self.run.log({axis: step, **values})

    def finish(self, status: str, summary: dict[str, Any], files: list[Path]) -> None:
        """End the run, as failed if it did not complete."""
        self.run.summary.update(summary)
        kept = Path(self.run.dir) / self.folder.name  # wandb has a config.yaml of its own there
        kept.mkdir()
        for file in files:
            shutil.copy(file, kept)
        self.run.finish(exit_code=EXIT_CODES[status])
