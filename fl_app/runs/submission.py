"""Export a completed run as a submission to PFL-DocVQA, track 1::

    python -m fl_app.runs.submission runs/NAME --out DIR

``DIR/model`` is the trained model with config and tokenizer, for ``from_pretrained``; LoRA is
merged into it. ``DIR/communication_log.csv`` has a row per transfer of a model for training, in
the ledger's order: ``federated_round,sender,receiver,amount_of_bytes``. The server is -1. Rounds
start at 1, as in the logs of the competition's own code. Of set-up it has only messages that carry
values of the model; evaluation is left out.
"""

import argparse
import csv
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from peft import LoraConfig, PeftModel

from fl_app import models
from fl_app.config import data_only, read_text, read_yaml
from fl_app.files import atomic_folder, keep_private
from fl_app.models import sources
from fl_app.runs import exported
from fl_app.wire.conventions import COLUMNS, GIGABYTE
from fl_app.wire.ledger import TRAINING

SERVER = -1
ADAPTER_KEYS = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "modules_to_save",
    "task_type", "bias", "rank_pattern", "alpha_pattern", "use_rslora",
)  # fmt: skip
LOG_COLUMNS = ("federated_round", "sender", "receiver", "amount_of_bytes")


class RunError(ValueError):
    """A run's folder that cannot be submitted; the message says why."""


def export(
    run: Path, out: Path, convention: str, adapter: str = exported.LAST
) -> list[dict[str, int]]:
    """Write the submission of ``run`` to ``out``; return the rows of its log.

    Parameters
    ----------
    run : Path
        The folder of a completed run.
    out : Path
        The folder to write.
    convention : str
        How bytes are counted, one of ``fl_app.wire.conventions.COLUMNS``.
    adapter : str
        Whose model: ``exported.LAST``, of the last round, or ``exported.BEST``. The log has all
        transfers in both cases: all rounds were needed to know the best one.

    Raises
    ------
    FileExistsError
        If ``out`` exists.
    FileNotFoundError, ValueError
        If the run's base model cannot be loaded.
    RunError
        If ``run`` is not the folder of a completed run, or has not counted by ``convention``.
    """
    _check_completed(run)
    log = communication_log(run, convention)
    with atomic_folder(out) as folder:
        save_model(run, folder / "model", adapter)
        with (folder / "communication_log.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, LOG_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(log)
    return log


def _check_completed(run: Path) -> None:
    path = run / "summary.json"
    if not path.is_file():
        raise RunError(f"{path} is missing: {run} is not the folder of a run that has ended")
    status = _summary(run).get("status")
    if status != "completed":
        raise RunError(f"{run} did not complete ({status}): there is no final model to submit")


def _convention(run: Path) -> str:
    """Return the run's ``output.convention``."""
    _check_completed(run)
    convention = (_summary(run).get("log") or {}).get("convention")
    if convention not in COLUMNS:
        raise RunError(f"{run / 'summary.json'} names no convention: set --convention")
    return str(convention)


def _summary(run: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(read_text(run / "summary.json")))
    except (TypeError, ValueError, RecursionError) as error:
        raise RunError(f"{run / 'summary.json'} cannot be read: {error}") from None


def communication_log(run: Path, convention: str) -> list[dict[str, int]]:
    """Return the rows of ``communication_log.csv``, one per transfer of a model or a part of it.

    Raises
    ------
    RunError
        If the ledger has no column for ``convention``.
    """
    column = COLUMNS[convention]
    with (run / "ledger.csv").open(newline="") as file:
        ledger = csv.DictReader(file)
        if column not in (ledger.fieldnames or ()):
            raise RunError(
                f"{run / 'ledger.csv'} has no column {column}: an older version wrote it; run the "
                "experiment again, or set another --convention"
            )
        return [_logged(row, column) for row in ledger if _carries(row)]


def _carries(row: dict[str, Any]) -> bool:
    return row["kind"] in TRAINING or (row["kind"] == "setup" and int(row["scalars"]) > 0)


def _logged(row: dict[str, Any], column: str) -> dict[str, int]:
    client = int(row["partition"])
    sender, receiver = (SERVER, client) if row["direction"] == "down" else (client, SERVER)
    values = (int(row["round"]), sender, receiver, int(row[column]))
    return dict(zip(LOG_COLUMNS, values, strict=True))


def save_model(run: Path, folder: Path, adapter: str = exported.LAST) -> None:
    """Save a complete model that ``run`` trained, of its folder ``adapter``, and its tokenizer."""
    config = read_yaml(run / "config.yaml")
    data_only.check(config)  # the model is built from it
    cfg = cast(DictConfig, OmegaConf.create(config))
    model, tokenizer = models.load_vt5(cfg.model, cfg.seed)
    trained = run / adapter
    if (trained / "adapter_model.safetensors").is_file():
        with warnings.catch_warnings():
            # PEFT sees an untied lm_head and wrongly assumes that it has untied it.
            warnings.filterwarnings("ignore", "Input and output embeddings are no longer tied")
            lora = _adapter_config(trained / "adapter_config.json")
            model = PeftModel.from_pretrained(model, str(trained), config=lora).merge_and_unload()
    elif not trained.is_dir():
        raise RunError(f"{trained} is missing: a run without validation rows keeps no best model")
    elif (trained / "model.safetensors").is_file():
        sources.check_own_config("path", str(trained))
        model = type(model).from_pretrained(trained, use_safetensors=True)
    else:
        raise RunError(
            f"{trained} contains neither adapter_model.safetensors nor model.safetensors"
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _adapter_config(path: Path) -> LoraConfig:
    """Return the LoRA that a file describes; other features that PEFT reads from it are ignored."""
    try:
        saved = json.loads(read_text(path))
        if saved["peft_type"] != "LORA":
            raise ValueError(f"peft_type={saved['peft_type']} should be LORA")
        return LoraConfig(**{key: saved[key] for key in ADAPTER_KEYS if key in saved})
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fl_app.runs.submission", description="export a run for PFL-DocVQA, track 1"
    )
    parser.add_argument("run", type=Path, help="folder of a completed run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--convention",
        choices=sorted(COLUMNS),
        help="how bytes are counted: those that were sent, or as in the competition's code "
        "(default: the run's output.convention)",
    )
    parser.add_argument(
        "--best",
        action="store_true",
        help="the model of the round that the validation rows selected (default: the last round's)",
    )
    given = parser.parse_args(arguments)
    keep_private()
    adapter = exported.BEST if given.best else exported.LAST
    try:
        convention = given.convention or _convention(given.run)
        log = export(given.run, given.out, convention, adapter)
    except (FileExistsError, FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    total = sum(row["amount_of_bytes"] for row in log)
    print(
        f"{given.out}: model, and a log of {len(log)} transfers, {total:,} bytes "
        f"({total / GIGABYTE:.4f} GB of 2^30 bytes, convention {convention!r})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
