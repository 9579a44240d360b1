"""summary.json: what a run cost and brought."""

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from fl_app.wire.conventions import COLUMNS
from fl_app.wire.ledger import Ledger

if TYPE_CHECKING:
    from fl_app.runs.folder import RunFolder

PACKAGES = (
    "thinwire", "flwr", "ray", "torch", "transformers", "peft", "bitsandbytes", "datasets",
    "hydra-core", "numpy", "numba", "opacus",
)  # fmt: skip


def summarize(
    run: "RunFolder", status: str, overrides: str, totals: dict[str, Any]
) -> dict[str, Any]:
    """Return the contents of summary.json.

    ``totals`` are what only the server knows: ``rounds``, ``trainable_scalars``,
    ``theta0_digest``, ``seed_only_saving`` (bytes), ``train_seconds``, ``setup_seconds`` and
    ``privacy`` (see ``fl_app.privacy.budget.spent``; None without).
    """
    ledger, cfg = run.ledger, run.cfg

    def sum_of(column: str, **equal: Any) -> Any:
        return ledger.total(
            column, lambda row: all(getattr(row, key) == value for key, value in equal.items())
        )

    final: dict[str, dict[str, float]] = {}
    for _, split, metric, value in run.metrics:
        final.setdefault(split, {})[metric] = value
    scalars_up = sum_of("scalars", direction="up", kind="train")
    sent = traffic(ledger)
    return {
        "experiment": cfg.experiment,
        "overrides": overrides,
        "seed": cfg.seed,
        "status": status,
        "rounds": totals["rounds"],
        "resumed": run.resumed,
        "trainable_scalars": totals["trainable_scalars"],
        "final": final.get("test", {}),
        "final_unseen": final.get("unseen", {}),
        "target": target(run),
        "privacy": totals["privacy"],
        "bytes": {
            **sent,
            "message_down_seed_only": sent["message_down"] - totals["seed_only_saving"],
        },
        "log": {
            "convention": cfg.output.convention,
            "bytes": sum_of(COLUMNS[cfg.output.convention], kind="train")
            + sum_of(COLUMNS[cfg.output.convention], kind="setup"),
        },
        "bits_per_scalar_up": 8 * sent["payload_up"] / scalars_up if scalars_up else None,
        "seconds": {
            "total": round(time.perf_counter() - run.started + totals["setup_seconds"], 3),
            "setup": round(totals["setup_seconds"], 3),
            "train": round(totals["train_seconds"], 3),
            "encode": round(sum_of("encode_s"), 6),
            "decode": round(sum_of("decode_s"), 6),
            "evaluate": round(run.evaluate_seconds, 3),
        },
        "theta0_digest": totals["theta0_digest"],
        "versions": versions(),
    }


def traffic(ledger: Ledger) -> dict[str, int]:
    """Return the bytes until now: of training by direction, of set-up, of both, of evaluation."""

    def bytes_of(column: str, kind: str, direction: str | None = None) -> int:
        wanted = {direction} if direction else {"up", "down"}
        return int(ledger.total(column, lambda r: r.kind == kind and r.direction in wanted))

    return {
        "payload_up": bytes_of("payload_bytes", "train", "up"),
        "payload_down": bytes_of("payload_bytes", "train", "down"),
        "message_up": bytes_of("message_bytes", "train", "up"),
        "message_down": bytes_of("message_bytes", "train", "down"),
        "setup": bytes_of("message_bytes", "setup"),
        "total": ledger.sent(),
        "evaluate": bytes_of("message_bytes", "evaluate"),
    }


def target(run: "RunFolder") -> dict[str, Any]:
    """Return when the target metric was first met, and the bytes sent until then, or nulls."""
    metric, value = run.cfg.target.metric, run.cfg.target.value
    met = [
        server_round
        for server_round, split, name, got in run.metrics
        if split == "test" and name == metric and value is not None and got >= value
    ]
    first = min(met, default=None)
    sent = None if first is None else run.ledger.sent(until=first)
    return {"metric": metric, "value": value, "round": first, "bytes": sent}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
