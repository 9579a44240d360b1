"""An audit of DP-SGD: no attack may tell rows apart better than epsilon allows.

    make audit-privacy             (or python -m benchmarks.audit_privacy --turns 500)

A client holds some rows, with or without one more, the canary. The attacker knows the model, the
other rows, the canary, the configuration and the seed of every turn; it does not know whether the
canary is there, nor the key of the noise. It sees the noised gradient of a step, from which all
that is sent is computed. Beforehand it computes the same turn with almost no noise, with and
without the canary, and so knows the direction in which the canary moves the sum. It decides by how
far the sum went in that direction. Half of the turns choose the best test, the other half measure
its true and false positive rates. From their Clopper-Pearson bounds follows a lower bound of
epsilon (Jagielski et al. 2020, https://arxiv.org/abs/2006.07709), with 95 % confidence. If it is
above the claimed epsilon, privacy is broken.

Epsilon itself is compared with that of dp-accounting over a grid of settings.
"""

import argparse
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import dp_accounting
import numpy as np
import torch
from dp_accounting.pld import PLDAccountant
from omegaconf import DictConfig, OmegaConf
from scipy import stats
from torch import nn

from fl_app.build import forget_session, open_session
from fl_app.privacy import accounting, dp_sgd
from fl_app.privacy.budget import mechanism
from fl_app.training.loop import Hooks

ROWS = 4  # the canary is the last
DELTA = 0.01
CONFIDENCE = 0.95
# A decoder with every kind of dropout: of states, of attention, of whole layers, of LoRA.
MODEL = (
    "model=huggingface model.path=random model.tokenizer=embedded:llama_tiny "
    "'model.config={model_type:opt,vocab_size:700,hidden_size:16,word_embed_proj_dim:16,ffn_dim:32,"
    "num_hidden_layers:2,num_attention_heads:2,max_position_embeddings:160,init_std:0.2,"
    "dropout:DROP,attention_dropout:DROP,layerdrop:DROP}' model.max_length=96 optimizer.lr=7e-3"
)
DATA = (
    "data=word_problems task=word_problems data.test_problems=1 data.providers_per_client=8 "
    "data.problems_per_provider=1 data.public_problems_per_provider=1 data.validation_problems=0"
)
METHODS = {
    "LoRA": "adapter=lora adapter.r=2 adapter.dropout=DROP",
    "LoRA-SB": "adapter=lora_sb adapter.r=4 adapter.eta=1e-3",
    "full": "adapter=full",
}
QUANTILES = np.linspace(0.01, 0.99, 99)
"""Of the turns' distances: the thresholds that are tried."""
ALMOST_NO_NOISE = 1e-9
"""The noise multiplier of the attacker's own turns."""
Sums = dict[str, np.ndarray]
"""How far the sum of each turn went in the canary's direction, by view (see `distances`)."""
GRID = tuple(itertools.product((0.7, 1.0, 2.0, 4.0), (0.01, 0.1, 1.0), (1, 30, 300), (1e-5, 1e-2)))


class Client:
    """Turns of one step over all rows, with the canary and without."""

    def __init__(self, method: str, dropout: float, noise: float) -> None:
        forget_session()
        words = f"{MODEL} {DATA} {METHODS[method]}".replace("DROP", str(dropout))
        self.here = open_session(
            f"{words} privacy=dp_sgd privacy.noise=secret privacy.epsilon=null "
            f"privacy.noise_multiplier={noise} privacy.delta={DELTA} privacy.max_grad_norm=0.1 "
            f"batch_size={ROWS} local_epochs=1"
        )
        self.rows = self.here.documents(0).select(range(ROWS)).to_list()
        trained = [p for p in self.here.model.parameters() if p.requires_grad]
        for parameter in trained:  # away from the start, where half of LoRA has no gradient
            torch.manual_seed(1)
            parameter.data.add_(0.1 * torch.randn(parameter.shape))
        self.start = self.here.adapter.get(self.here.model)
        self.claim = mechanism(self.here.cfg, ROWS).epsilon(1)

    def total(self, seed: int, canary: bool, noise: float | None = None) -> np.ndarray:
        """Return the noised sum of gradients of a turn's step, over the clip, float64 [scalars]."""
        cfg = self.here.cfg
        if noise is not None:
            changed = OmegaConf.merge(cfg, {"privacy": {"noise_multiplier": noise}})
            cfg = cast(DictConfig, changed)
        rows = self.rows if canary else self.rows[:-1]
        seen: list[np.ndarray] = []

        def keep(model: nn.Module) -> None:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            seen.append(torch.cat([g.double().flatten() for g in gradients]).numpy())

        self.here.adapter.set(self.here.model, self.start)
        dp_sgd.train(
            self.here.model, rows, self.here.task, cfg, seed=seed, hooks=Hooks(gradients=[keep])
        )
        (gradient,) = seen
        return gradient * (len(rows) / cfg.privacy.max_grad_norm)


def distances(client: Client, turns: int) -> tuple[Sums, Sums]:
    """Return how far the sums went in the canary's direction, of turns with it and without it.

    There are two views of that direction: "seed" is the one of the turn's own seed, "mean" the mean
    over the seeds of all turns.
    """
    known = [
        tuple(client.total(seed, canary, ALMOST_NO_NOISE) for canary in (False, True))
        for seed in range(turns)
    ]
    mean = tuple(np.mean([sums[i] for sums in known], axis=0) for i in (0, 1))
    found: list[Sums] = []
    for canary in (True, False):
        seen = [client.total(seed, canary) for seed in range(turns)]
        found.append(
            {
                "seed": np.array([_along(s, *k) for s, k in zip(seen, known, strict=True)]),
                "mean": np.array([_along(s, *mean) for s in seen]),
            }
        )
    return found[0], found[1]


def _along(seen: np.ndarray, without: np.ndarray, with_it: np.ndarray) -> float:
    direction = with_it - without
    return float((seen - without) @ direction / np.linalg.norm(direction))


def lower_bound(hits: int, of_hits: int, alarms: int, of_alarms: int) -> float:
    """Return the least epsilon that explains these true and false positives.

    Parameters
    ----------
    hits, of_hits : int
        True positives, and the turns that they are out of.
    alarms, of_alarms : int
        False positives, and the turns that they are out of.
    """
    each = (1 - CONFIDENCE) / 2
    found = stats.beta.ppf(each, hits, of_hits - hits + 1) if hits else 0.0
    wrong = stats.beta.ppf(1 - each, alarms + 1, of_alarms - alarms) if alarms < of_alarms else 1.0
    return math.log((found - DELTA) / wrong) if found > DELTA else -math.inf


@dataclass(frozen=True)
class Test:
    """Decides by a threshold of one view that the canary is there, or that it is not.

    Attributes
    ----------
    view : str
        "seed" or "mean".
    limit : float
        The threshold.
    finds_presence : bool
        Whether a positive is a turn with the canary, above the threshold; else one without it.
    """

    view: str
    limit: float
    finds_presence: bool

    def positives(self, present: Sums, absent: Sums) -> tuple[int, int, int, int]:
        """Return true positives, the turns that they are out of, and the same of false ones."""
        sums = (present, absent) if self.finds_presence else (absent, present)
        counts = [int((one[self.view] > self.limit).sum()) for one in sums]
        of = [len(one[self.view]) for one in sums]
        if not self.finds_presence:
            counts = [n - count for n, count in zip(of, counts, strict=True)]
        return counts[0], of[0], counts[1], of[1]


def attack(present: Sums, absent: Sums) -> dict[str, float]:
    """Return the lower ``bound`` of epsilon, and the ``true`` and ``false`` positive rates.

    The first half of the turns chooses the test, the second half measures it.

    Parameters
    ----------
    present, absent : dict of float64 [turns]
        Of turns with the canary and without it, see `distances`.
    """
    half = min(map(len, present.values())) // 2
    first, second = (
        tuple({view: values[part] for view, values in one.items()} for one in (present, absent))
        for part in (slice(half), slice(half, None))
    )
    tests = [
        Test(view, limit, finds_presence)
        for view in present
        for limit in np.quantile(np.concatenate([first[0][view], first[1][view]]), QUANTILES)
        for finds_presence in (True, False)
    ]
    best = max(tests, key=lambda test: lower_bound(*test.positives(*first)))
    hits, of_hits, alarms, of_alarms = best.positives(*second)
    return {
        "true": hits / of_hits,
        "false": alarms / of_alarms,
        "bound": max(0.0, lower_bound(hits, of_hits, alarms, of_alarms)),
    }


def dp_accounting_epsilon(noise: float, rate: float, steps: int, delta: float) -> float:
    """Return epsilon by the accountant of privacy loss distributions of Google's library."""
    event = dp_accounting.GaussianDpEvent(noise)
    if rate < 1:
        event = dp_accounting.PoissonSampledDpEvent(rate, event)
    return float(PLDAccountant().compose(event, steps).get_epsilon(delta))


def compare_epsilons(grid: Sequence[tuple[float, float, int, float]]) -> list[tuple[float, float]]:
    """Return our epsilon and that of dp-accounting for every setting in which ours is not loose.

    Parameters
    ----------
    grid : sequence of (float, float, int, float)
        Noise multiplier, sampling rate, steps and delta.
    """
    pairs = [(accounting.epsilon(*one), dp_accounting_epsilon(*one)) for one in grid]
    return [pair for pair in pairs if pair[0] <= accounting.LARGE]


def main() -> None:
    """Print the table of attacks, and how epsilon compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--turns",
        type=int,
        default=500,
        help="with the canary, and without",
    )
    parser.add_argument("--noise", type=float, default=1.0, help="noise multiplier")
    parser.add_argument("--dropout", type=float, nargs="*", default=[0.0, 0.5])
    asked = parser.parse_args()
    print(
        f"{asked.turns} + {asked.turns} turns, noise {asked.noise}, {ROWS} rows, delta {DELTA}; "
        f"bounds at {CONFIDENCE:.0%} confidence\n\n"
        "| method | dropout | true positives | false positives | epsilon at least | claimed |\n"
        "|---|---|---|---|---|---|"
    )
    broken = False
    for method, dropout in itertools.product(METHODS, asked.dropout):
        client = Client(method, dropout, asked.noise)
        found = attack(*distances(client, asked.turns))
        broken |= found["bound"] > client.claim
        print(
            f"| {method} | {dropout} | {found['true']:.3f} | {found['false']:.3f} | "
            f"{found['bound']:.3f} | {client.claim:.3f} |",
            flush=True,
        )
    began = time.perf_counter()
    pairs = [pair for pair in compare_epsilons(GRID) if pair[0] > 0.1]
    ratios = [ours / theirs for ours, theirs in pairs]
    print(
        f"\nepsilon over dp-accounting's, {len(ratios)} settings above 0.1: {min(ratios):.4f} to "
        f"{max(ratios):.4f} ({time.perf_counter() - began:.0f} s)"
    )
    if broken:
        raise SystemExit("an attack found more than was claimed: privacy is broken")


if __name__ == "__main__":
    main()
