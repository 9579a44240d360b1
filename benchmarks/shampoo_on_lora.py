"""``python -m benchmarks.shampoo_on_lora [--seed 0]``: steps of LoRA's factors under Shampoo.

One client's first turn of ``experiment=fedavg_lora`` with AdamW and with several settings of
Shampoo, from the same start: W0 + alpha/r B A with B = 0. While B is zero A's gradient is zero too,
and afterwards it grows with B. Printed for some steps, as medians over all adapted matrices:

- trace A, trace B: the trace of Shampoo's statistic, the sum of the squared gradients so far;
- A, B: the norm of the step, divided by the norm of AdamW's step of the same number;
- change: the norm of alpha/r B A, divided by the norm of W0.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from fl_app.build import open_session
from fl_app.config import compose
from fl_app.seeds import turn_seed
from fl_app.training.loop import Hooks, train

EXPERIMENT = "experiment=fedavg_lora rounds=1"
SETTINGS = {
    "AdamW": "",
    "grafted": ("optimizer=shampoo optimizer.lr=7e-3 optimizer.eps=1e-2 optimizer.root_interval=5"),
    "plain": "optimizer=shampoo optimizer.lr=4e-3 optimizer.graft=none",
    "plain, fresh roots": (
        "optimizer=shampoo optimizer.lr=4e-3 optimizer.graft=none optimizer.root_interval=1"
    ),
}
STEPS = (1, 2, 3, 4, 6, 10, 11, 12, 20, 25)


@dataclass
class Factors:
    """Records the LoRA factors of every adapted matrix at every step, as a hook of ``train``.

    Attributes
    ----------
    moved, trace : list of dict
        For every step and factor ("A", "B") one number for each matrix: the norm of the step, and
        the trace of the statistic.
    change : list of float
        For every step the median of the norm of alpha/r B A over that of W0.
    """

    model: nn.Module
    max_grad_norm: float
    moved: list[dict[str, list[float]]] = field(default_factory=list)
    trace: list[dict[str, list[float]]] = field(default_factory=list)
    change: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        named = list(self.model.named_modules())
        self.layers = [m for _, m in named if hasattr(m, "lora_A")]
        self.before = self._copy()

    def _weights(self) -> dict[str, list[nn.Parameter]]:
        return {
            "A": [layer.lora_A["default"].weight for layer in self.layers],
            "B": [layer.lora_B["default"].weight for layer in self.layers],
        }

    def _copy(self) -> dict[str, list[torch.Tensor]]:
        return {k: [w.detach().clone() for w in ws] for k, ws in self._weights().items()}

    def __call__(self, model: nn.Module) -> None:
        """Record the gradients, before they are clipped, and the step before them."""
        if self.trace:
            self.stepped()
        trained = [p.grad for p in model.parameters() if p.grad is not None]
        clip = min(1.0, self.max_grad_norm / float(nn.utils.get_total_norm(trained)))
        self.trace.append(
            {
                factor: [
                    (float(w.grad.square().sum()) * clip**2 if w.grad is not None else 0.0) + last
                    for w, last in zip(
                        weights,
                        self.trace[-1][factor] if self.trace else [0.0] * len(weights),
                        strict=True,
                    )
                ]
                for factor, weights in self._weights().items()
            }
        )

    @torch.no_grad()
    def stepped(self) -> None:
        """Record the step that was done last."""
        now = self._copy()
        self.moved.append(
            {
                k: [float((a - b).norm()) for a, b in zip(now[k], self.before[k], strict=True)]
                for k in now
            }
        )
        self.before = now
        self.change.append(
            statistics.median(
                float(layer.get_delta_weight("default").norm() / layer.weight.norm())
                for layer in self.layers
            )
        )


def watch(overrides: str, seed: int) -> tuple[Factors, float]:
    """Train client 0 for one epoch; return the record of its factors, and its mean loss."""
    overrides = f"{EXPERIMENT} {overrides} seed={seed} federation.torch_threads=1"
    here = open_session(overrides)
    cfg = compose(overrides)
    here.adapter.set(here.model, here.theta0)
    factors = Factors(here.model, cfg.optimizer.max_grad_norm)
    turn = train(
        here.model,
        here.documents(0).to_list(),
        here.task,
        cfg.optimizer,
        epochs=1,
        batch_size=cfg.batch_size,
        seed=turn_seed(seed, 1, 0),
        hooks=Hooks(gradients=[factors]),
    )
    factors.stepped()
    return factors, turn.loss


def table(watched: dict[str, tuple[Factors, float]]) -> list[str]:
    """Return the lines of the table; steps are divided by those of the first setting."""
    (reference, _), *_ = watched.values()
    lines = [
        "| optimizer | step | trace A | trace B | A | B | change |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (factors, loss) in watched.items():
        for step in (s for s in STEPS if s <= len(factors.moved)):
            trace, moved = factors.trace[step - 1], factors.moved[step - 1]
            cells = [f"{statistics.median(trace[k]):.1e}" for k in "AB"]
            cells += [_ratio(moved[k], reference.moved[step - 1][k]) for k in "AB"]
            cells.append(f"{factors.change[step - 1]:.3f}")
            lines.append(f"| {name} | {step} | {' | '.join(cells)} |")
        lines.append(f"| {name} | mean loss {loss:.3f} | | | | | |")
    return lines


def _ratio(moved: Sequence[float], reference: Sequence[float]) -> str:
    ratios = [a / b for a, b in zip(moved, reference, strict=True) if b > 0]
    return f"{statistics.median(ratios):.3g}" if ratios else "0 of 0"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    watched = {name: watch(overrides, seed) for name, overrides in SETTINGS.items()}
    print("\n".join(table(watched)))


if __name__ == "__main__":
    main()
