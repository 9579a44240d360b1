"""Folders of finished runs, written by the classes that write those of real runs."""

from collections.abc import Sequence
from pathlib import Path

from fl_app.config import compose
from fl_app.runs.folder import RunFolder
from fl_app.wire.ledger import Transfer


def transfers(payload: int, rounds: int) -> list[Transfer]:
    """Return the transfers of set-up and ``rounds`` rounds of one client.

    Each upload has ``payload`` bytes, each download half as many.
    """
    rows = [
        Transfer(0, 0, "down", "setup", message_bytes=160),
        Transfer(0, 0, "up", "setup", message_bytes=420),
    ]
    for number in range(1, rounds + 1):
        for direction, size in (("down", payload // 2), ("up", payload)):
            rows.append(
                Transfer(
                    number, number % 3, direction, "train", "nf4", 2 * payload, size, size + 32,
                    size + 900, 0.01, 0.02, size,
                )
            )  # fmt: skip
        rows.append(Transfer(number, 0, "down", "evaluate", message_bytes=10**6))
    return rows


def finished(
    folder: Path,
    words: str = "",
    seed: int = 0,
    scores: Sequence[float] = (0.3, 0.6, 0.8),
    payload: int = 1000,
    status: str = "completed",
    validated: Sequence[float] = (),
    lost: Sequence[int] = (),
) -> Path:
    """Write the folder of a run; return its path.

    Parameters
    ----------
    folder : Path
        The folder.
    words : str
        Overrides of the run.
    seed : int
        Its seed.
    scores : sequence of float
        Score after each round, from round 0.
    payload : int
        Payload bytes of an upload.
    status : str
        Its status; "unfinished": without a summary.
    validated : sequence of float
        Validation scores, if there is such a split.
    lost : sequence of int
        Rounds in which client 4 was asked too, and its turn lost.
    """
    overrides = f"{words} seed={seed} output.dir={folder.parent} output.name={folder.name}".strip()
    run = RunFolder(compose(overrides))
    for number, score in enumerate(scores):
        if validated:
            run.add_metrics(number, "validation", {run.cfg.target.metric: validated[number]})
        run.add_metrics(number, "test", {run.cfg.target.metric: score})
    if scores:
        run.add_metrics(len(scores) - 1, "unseen", {run.cfg.target.metric: scores[-1] / 2})
    run.ledger.add(transfers(payload, len(scores) - 1))
    for number in lost:
        down = Transfer(number, 4, "down", "train", message_bytes=payload)
        down.lose("a row has no answer")
        run.ledger.add([down])
    if status != "unfinished":
        totals = {
            "rounds": len(scores) - 1,
            "trainable_scalars": 2 * payload,
            "theta0_digest": "00",
            "seed_only_saving": 0,
            "train_seconds": 1.0,
            "setup_seconds": 0.5,
            "device": "cpu",
            "privacy": None,
            "absent": {},
        }
        run.finish(status, overrides, totals)
    return run.path


def sweep(folder: Path) -> list[Path]:
    """Write twelve runs: three configurations with three seeds, and three that do not count."""
    found = []
    for name, words, payload, best in (
        ("fp32", "codec=fp32", 8000, 0.80),
        ("nf4", "codec=nf4", 1000, 0.84),
        ("fedavg", "strategy=fedavg codec=nf4 clients_per_round=2", 3000, 0.60),
    ):
        for seed in range(3):
            scores = (0.3, best - 0.2, best + 0.01 * seed)
            found.append(finished(folder / f"{name}-s{seed}", words, seed, scores, payload))
    found.append(finished(folder / "failed", "codec=sign", 0, (0.3,), status="failed"))
    found.append(finished(folder / "going", "codec=sign", 1, (0.3, 0.4), status="unfinished"))
    found.append(finished(folder / "repeated", "codec=nf4", 2, (0.3, 0.6, 0.1)))
    return found
