"""The privacy of DP-SGD, attacked: no test may tell rows apart better than epsilon allows.

    make audit-privacy             (or python -m benchmarks.audit_privacy --turns 500)

A client holds some rows, with or without one more, the canary. Whoever attacks knows all but that,
and the key: the model, the other rows, the canary, the configuration and the seed of every turn. It
sees the noised gradient of a step, of which all that is sent is made, and goes through the turn
itself beforehand, with hardly any noise. So it knows where the canary would move the sum, and
decides by how far the sum went that way. Half of the turns choose its test, the other half count
how often that is right. Of these shares one has Clopper-Pearson bounds, and of them the least
epsilon that explains them (Jagielski et al. 2020, https://arxiv.org/abs/2006.07709): with 95%
confidence the true one is no less. Above the claim, privacy is broken.

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

from fl_app.build import forget_session, session
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
    "dropout:DROP,attention_dropout:DROP,layerdrop:DROP}' model.max_length=96"
)
DATA = (
    "data=word_problems task=word_problems data.test_problems=1 data.providers_per_client=8 "
    "data.problems_per_provider=1 data.public_problems_per_provider=1"
)
METHODS = {
    "LoRA": "adapter=lora adapter.r=2 adapter.dropout=DROP",
    "LoRA-SB": "adapter=lora_sb adapter.r=4",
    "full": "adapter=full",
}
SHARES = np.linspace(0.01, 0.99, 99)  # of the turns, beyond a threshold
Sums = dict[str, np.ndarray]  # how far the turns' sums went, by view
GRID = tuple(itertools.product((0.7, 1.0, 2.0, 4.0), (0.01, 0.1, 1.0), (1, 30, 300), (1e-5, 1e-2)))


class Client:
    """Turns of one step over all rows, with the canary and without."""

    def __init__(self, method: str, dropout: float, noise: float) -> None:
        forget_session()
        words = f"{MODEL} {DATA} {METHODS[method]}".replace("DROP", str(dropout))
        self.here = session(
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
        """Return the noised sum of a turn's step over the clip, float64 [scalars]."""
        cfg = self.here.cfg
        if noise is not None:
            changed = OmegaConf.merge(cfg, {"privacy": {"noise_multiplier": noise}})
            cfg = cast(DictConfig, changed)
        rows = self.rows if canary else self.rows[:-1]
        seen: list[np.ndarray] = []

        def look(model: nn.Module) -> None:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            seen.append(torch.cat([g.double().flatten() for g in gradients]).numpy())

        self.here.adapter.set(self.here.model, self.start)
        dp_sgd.train(
            self.here.model, rows, self.here.task, cfg, seed=seed, hooks=Hooks(gradients=[look])
        )
        (gradient,) = seen
        return gradient * (len(rows) / cfg.privacy.max_grad_norm)


def distances(client: Client, turns: int) -> tuple[Sums, Sums]:
    """Return how far the sums of turns with and without the canary went its way, by two views.

    "seed" is where it moves the sum in this very turn, if its seed is all that decides; "mean" is
    where it moves it in the mean of all turns.
    """
    faint = 1e-9
    views = [
        tuple(client.total(seed, canary, faint) for canary in (False, True))
        for seed in range(turns)
    ]
    mean = tuple(np.mean([view[i] for view in views], axis=0) for i in (0, 1))
    found: list[Sums] = []
    for canary in (True, False):
        seen = [client.total(seed, canary) for seed in range(turns)]
        found.append(
            {
                "seed": np.array([_along(s, *v) for s, v in zip(seen, views, strict=True)]),
                "mean": np.array([_along(s, *mean) for s in seen]),
            }
        )
    return found[0], found[1]


def _along(seen: np.ndarray, without: np.ndarray, with_it: np.ndarray) -> float:
    way = with_it - without
    return float((seen - without) @ way / np.linalg.norm(way))


def lower_bound(hits: int, of_hits: int, alarms: int, of_alarms: int) -> float:
    """Return the least epsilon by which a test finds so many and is wrong so often."""
    each = (1 - CONFIDENCE) / 2
    found = stats.beta.ppf(each, hits, of_hits - hits + 1) if hits else 0.0
    wrong = stats.beta.ppf(1 - each, alarms + 1, of_alarms - alarms) if alarms < of_alarms else 1.0
    return math.log((found - DELTA) / wrong) if found > DELTA else -math.inf


@dataclass(frozen=True)
class Test:
    """Decides that the canary is there, or that it is gone, by a threshold of one view."""

    view: str
    limit: float
    is_there: bool

    def shares(self, there: Sums, gone: Sums) -> tuple[int, int, int, int]:
        """Return how many decisions are right, of how many, and how many wrong, of how many."""
        right, wrong = (there, gone) if self.is_there else (gone, there)
        counts = [int((one[self.view] > self.limit).sum()) for one in (right, wrong)]
        of = [len(one[self.view]) for one in (right, wrong)]
        if not self.is_there:
            counts = [n - count for n, count in zip(of, counts, strict=True)]
        return counts[0], of[0], counts[1], of[1]


def judged(there: Sums, gone: Sums) -> dict[str, float]:
    """Return the lower bound of epsilon, and the test's true and false positive rates.

    The first half of the turns chooses the test.
    """
    half = min(map(len, there.values())) // 2
    first, second = (
        tuple({view: values[part] for view, values in one.items()} for one in (there, gone))
        for part in (slice(half), slice(half, None))
    )
    tests = [
        Test(view, limit, is_there)
        for view in there
        for limit in np.quantile(np.concatenate([first[0][view], first[1][view]]), SHARES)
        for is_there in (True, False)
    ]
    best = max(tests, key=lambda test: lower_bound(*test.shares(*first)))
    hits, of_hits, alarms, of_alarms = best.shares(*second)
    return {
        "true": hits / of_hits,
        "false": alarms / of_alarms,
        "bound": max(0.0, lower_bound(hits, of_hits, alarms, of_alarms)),
    }


def of_dp_accounting(noise: float, rate: float, steps: int, delta: float) -> float:
    """Return epsilon as Google's accountant of privacy loss distributions has it."""
    event = dp_accounting.GaussianDpEvent(noise)
    if rate < 1:
        event = dp_accounting.PoissonSampledDpEvent(rate, event)
    return float(PLDAccountant().compose(event, steps).get_epsilon(delta))


def compared(grid: Sequence[tuple[float, float, int, float]]) -> list[tuple[float, float]]:
    """Return epsilon of every setting, ours and dp-accounting's, but where ours is loose."""
    pairs = [(accounting.epsilon(*one), of_dp_accounting(*one)) for one in grid]
    return [pair for pair in pairs if pair[0] <= accounting.LARGE]


def main() -> None:
    """Print the table of attacks, and how epsilon compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=500, help="with the canary, and without")
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
        found = judged(*distances(client, asked.turns))
        broken |= found["bound"] > client.claim
        print(
            f"| {method} | {dropout} | {found['true']:.3f} | {found['false']:.3f} | "
            f"{found['bound']:.3f} | {client.claim:.3f} |",
            flush=True,
        )
    began = time.perf_counter()
    pairs = [pair for pair in compared(GRID) if pair[0] > 0.1]
    ratios = [ours / theirs for ours, theirs in pairs]
    print(
        f"\nepsilon over dp-accounting's, {len(ratios)} settings above 0.1: {min(ratios):.4f} to "
        f"{max(ratios):.4f} ({time.perf_counter() - began:.0f} s)"
    )
    if broken:
        raise SystemExit("an attack found more than was claimed: privacy is broken")


if __name__ == "__main__":
    main()
