"""The content of summary.json: results and costs of a run."""

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fl_app.runs import clients, selection
from fl_app.runs.machine import described
from fl_app.runs.selection import TEST, VALIDATION, Metric
from fl_app.wire import frame
from fl_app.wire.conventions import COLUMNS
from fl_app.wire.ledger import Transfers
from fl_app.wire.link import Link

PACKAGES = (
    "thinwire", "flwr", "ray", "torch", "transformers", "peft", "bitsandbytes", "datasets",
    "hydra-core", "numpy", "numba", "opacus",
)  # fmt: skip


def summarize(
    cfg: DictConfig,
    ledger: Transfers,
    metrics: Sequence[Metric],
    *,
    status: str,
    overrides: str,
    resumed: Sequence[int],
    elapsed: float,
    evaluate_seconds: float,
    totals: dict[str, Any],
) -> dict[str, Any]:
    """Return the content of summary.json.

    Parameters
    ----------
    cfg : DictConfig
        The configuration of the run.
    ledger : Transfers
        All its transfers.
    metrics : sequence of Metric
        All its scores.
    status : str
        "completed", "failed" or "interrupted".
    overrides : str
        What the run was started with.
    resumed : sequence of int
        The last complete round at each time it was resumed.
    elapsed : float
        Seconds of the run, without set-up.
    evaluate_seconds : float
        Seconds of evaluation on the server.
    totals : dict
        Values that only the server knows: ``rounds``, ``trainable_scalars``, ``theta0_digest``,
        ``seed_only_saving`` (bytes), ``train_seconds``, ``setup_seconds``, ``device`` (see
        ``fl_app.runs.machine``), ``privacy`` (see ``fl_app.privacy.budget.spent``; None without
        privacy), ``absent`` (client that no round could ask, to why) and ``best_adapter`` (see
        ``fl_app.runs.exported.best``).
    """
    final: dict[str, dict[str, float]] = {}
    for _, split, metric, value in metrics:
        final.setdefault(split, {})[metric] = value
    scalars_up = ledger.total_of("scalars", "train", "up")
    sent = traffic(ledger)
    logged = COLUMNS[cfg.output.convention]
    return {
        "experiment": cfg.experiment,
        "overrides": overrides,
        "seed": cfg.seed,
        "status": status,
        "rounds": totals["rounds"],
        "resumed": list(resumed),
        "trainable_scalars": totals["trainable_scalars"],
        "final": final.get(TEST, {}),
        "final_validation": final.get(VALIDATION, {}),
        "final_unseen": final.get("unseen", {}),
        "final_source": final.get("source", {}),
        "best": best(cfg, metrics, totals["best_adapter"]),
        "target": target(cfg, ledger, metrics),
        "privacy": totals["privacy"],
        "bytes": {
            **sent,
            "message_down_seed_only": sent["message_down"] - totals["seed_only_saving"],
        },
        "log": {
            "convention": cfg.output.convention,
            "bytes": ledger.total_of(logged, "train") + ledger.total_of(logged, "setup"),
        },
        "link": on_link(cfg, ledger, metrics),
        "clients": clients.summary(ledger.rows, totals["absent"], totals["names"]),
        "bits_per_scalar_up": 8 * sent["payload_up"] / scalars_up if scalars_up else None,
        "seconds": {
            "total": round(elapsed + totals["setup_seconds"], 3),
            "setup": round(totals["setup_seconds"], 3),
            "train": round(totals["train_seconds"], 3),
            "encode": round(ledger.total("encode_s"), 6),
            "decode": round(ledger.total("decode_s"), 6),
            "evaluate": round(evaluate_seconds, 3),
        },
        "theta0_digest": totals["theta0_digest"],
        "versions": versions(),
        "frame_version": frame.VERSION,
        "machine": described(totals["device"]),
    }


def traffic(ledger: Transfers) -> dict[str, int]:
    """Return the bytes so far: of training by direction, of set-up, of both, of evaluation."""
    return {
        "payload_up": ledger.total_of("payload_bytes", "train", "up"),
        "payload_down": ledger.total_of("payload_bytes", "train", "down"),
        "message_up": ledger.total_of("message_bytes", "train", "up"),
        "message_down": ledger.total_of("message_bytes", "train", "down"),
        "setup": ledger.total_of("message_bytes", "setup"),
        "total": ledger.sent(),
        "evaluate": ledger.total_of("message_bytes", "evaluate"),
    }


def best(cfg: DictConfig, metrics: Sequence[Metric], folder: Path | None = None) -> dict[str, Any]:
    """Return the best round, the split that selected it, and its score there and on test.

    All but the metric and the split are None if no round was scored. ``last`` is the score of the
    last round on that split, ``last_is_worse`` whether that is clearly less than the best round's
    (``selection.CLEARLY``), and ``adapter`` the folder of the best round's model, None if there is
    none. ``adapter/`` is of the last round, whichever is the best.
    """
    metric = cfg.target.metric
    found = selection.best_round(metrics, metric)
    split = selection.selected_on(metrics, metric)
    scored = selection.selecting(metrics, metric)
    values = {
        name: None if found is None else selection.scores(metrics, one, metric)[found]
        for name, one in (("value", split), (TEST, TEST))
    }
    return {
        "metric": metric,
        "selected_on": split,
        "round": found,
        **values,
        "last": scored[max(scored)] if scored else None,
        "last_is_worse": selection.last_is_worse(metrics, metric),
        "adapter": None if folder is None else folder.name,
    }


def target(cfg: DictConfig, ledger: Transfers, metrics: Sequence[Metric]) -> dict[str, Any]:
    """Return the round in which the target was first met, and the bytes sent until then.

    Both are None if the run has no target or missed it. ``selected_on`` is the split whose scores
    say so: whoever stops a run there sees no test score. See ``fl_app.runs.selection``.
    """
    metric, value = cfg.target.metric, cfg.target.value
    first = selection.first_met(metrics, metric, value)
    return {
        "metric": metric,
        "value": value,
        "selected_on": selection.selected_on(metrics, metric),
        "round": first,
        "bytes": None if first is None else ledger.sent(until=first),
    }


def on_link(cfg: DictConfig, ledger: Transfers, metrics: Sequence[Metric]) -> dict[str, Any] | None:
    """Return what a simulated link made of the run; None without one.

    ``seconds`` is how long all transfers take on it, ``to_target_seconds`` those until the target
    was met (None if it was not), ``sent`` and ``received`` are message bytes as in ``bytes.total``.
    """
    link = Link(cfg)
    if not link.is_simulated:
        return None
    first = selection.first_met(metrics, cfg.target.metric, cfg.target.value)
    return {
        "seconds": round(link.seconds(ledger.rows), 3),
        "to_target_seconds": None if first is None else round(link.seconds(ledger.rows, first), 3),
        "sent": ledger.sent(),
        "received": ledger.sent(column="received_bytes"),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {package: installed_version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **found}


def installed_version(package: str) -> str:
    """Return the version of an installed package, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
