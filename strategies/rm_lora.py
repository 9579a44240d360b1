"""RM-LoRA (Mao et al. 2024, https://arxiv.org/abs/2407.12074): a penalty and masks for LoRA.

The update B A, B [out, r] and A [r, in], is kept from falling into few directions by a penalty::

    L + lambda / n sum_F |F F^T - I|_F,      F = A or B^T of every module, n of them

(``penalty="raw"``; ``"normalised"``: the mean size of the cosine of two rows of F), and by training
k of the r directions in a step: k rows of every A, k columns of every B, drawn anew for each module
and each step but the first; ``shared`` draws the same ones for A and B. Other trained tensors, such
as a head, are never masked; in the authors' code they are, which looks like an oversight.

Rule and penalty follow that code (https://github.com/yz-mao/RM-LoRA), in which masked gradients are
0 and Adam still moves the weights by its moments (``refresh="step"``). It clips gradients before it
masks them; here the clipping comes last.

Ours is ``refresh="round"``: the mask is a function of the round, the same for all clients and known
to the server, and what is outside of it does not move at all in the round. Then a client sends the
changes inside, k/r of LoRA's values, without their places. Ours too is ``unit="element"``: a share
k/r of the entries of each factor instead of rows and columns.
"""

from collections.abc import Callable, Iterable
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from omegaconf import DictConfig

from fl_app.config import ConfigError
from fl_app.faults import FaultError
from fl_app.privacy import is_example_level
from fl_app.training.hooks.mask import Masks, kept_still, masked
from fl_app.training.hooks.penalty import PENALTIES, orthogonality
from fl_app.training.local import Answer, Assignment, LocalMethod
from fl_app.training.loop import Hooks
from fl_app.tree import Tree
from fl_app.wire.forms import DEFAULT
from fl_app.wire.messages import FORM
from strategies._checks import check_local, check_shared, switches, whole_from, within

CLIENT = "strategies.rm_lora.RMLoRAClient"
MOVED = "moved"  # a form, and its part: the changes inside of the mask
UNITS, REFRESH = ("component", "element"), ("step", "round")
SHARED = ("k", "unit", "shared", "refresh", "master")
A, B = ".lora_A.", ".lora_B."


class Draw:
    """Draws masks: True for what is trained, of every A and B.

    Parameters
    ----------
    k : int
        Directions of a module that are trained, of its r.
    unit : str
        "component" for rows of A and columns of B, "element" for single entries.
    shared : bool
        The same directions for A and B of a module.
    """

    def __init__(self, k: int, unit: str, shared: bool) -> None:
        whole_from(1, k=k)
        switches(shared=shared)
        if unit not in UNITS:
            raise ValueError(f"unit={unit} should be one of {UNITS}")
        self.k, self.unit, self.shared = k, unit, shared

    def __call__(self, like: Tree, rng: np.random.Generator) -> dict[str, NDArray[np.bool_]]:
        """Return the masks of a Tree with the names and shapes of ``like``."""
        found: dict[str, NDArray[np.bool_]] = {}
        rows: dict[str, NDArray[np.bool_]] = {}
        for name, x in like.items():
            if A not in name and B not in name:
                continue
            module, r = name.replace(A, B), x.shape[0 if A in name else 1]
            if self.unit == "element":
                found[name] = _chosen(x.size, x.size * self.k // r, rng).reshape(x.shape)
                continue
            if not self.shared or module not in rows:
                rows[module] = _chosen(r, self.k, rng)
            one = rows[module]
            found[name] = np.broadcast_to(one[:, None] if A in name else one, x.shape).copy()
        return found


def _chosen(n: int, k: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which k of n are drawn, without replacement."""
    mask = np.zeros(n, np.bool_)
    mask[rng.choice(n, min(k, n), replace=False)] = True
    return mask


def of_round(draw: Draw, like: Tree, master: int, server_round: int) -> Masks:
    """Return the masks of a round, the same on every machine."""
    return draw(like, np.random.default_rng([master, server_round]))


def inside(tree: Tree, masks: Masks) -> Tree:
    """Return the values inside of the masks, row by row; tensors without a mask as they are."""
    return {n: np.asarray(x[masks[n]] if n in masks else x) for n, x in tree.items()}


class RMLoRAClient(LocalMethod):
    """Training with the penalty, under masks.

    Parameters
    ----------
    strength : float
        lambda; 0: no penalty.
    penalty : str
        "raw" or "normalised".
    k, unit, shared
        See `Draw`.
    refresh : str
        "step": a mask for each step, of gradients; "round": one for the round, of all that moves.
    master : int
        The seed of the masks of rounds.
    """

    def __init__(
        self,
        strength: float,
        penalty: str,
        k: int,
        unit: str,
        shared: bool,
        refresh: str,
        master: int,
    ) -> None:
        within("[0, inf)", strength=strength)
        whole_from(0, master=master)
        if penalty not in PENALTIES:
            raise ValueError(f"penalty={penalty} should be one of {PENALTIES}")
        if refresh not in REFRESH:
            raise ValueError(f"refresh={refresh} should be one of {REFRESH}")
        self.strength, self.penalty = float(strength), penalty
        self.draw, self.refresh, self.master = Draw(k, unit, shared), refresh, master

    def like(self, part: str, theta0: Tree) -> Tree:
        """Return zeros for what a round's mask lets move: their number is that of every round."""
        del part
        moved = inside(theta0, of_round(self.draw, theta0, self.master, 1))
        return {name: np.zeros_like(x) for name, x in moved.items()}

    def run(self, given: Assignment) -> Answer:
        """Return the trained model, or what moved of it.

        Raises
        ------
        FaultError
            If the server asks for the other of the two.
        """
        form = MOVED if self.refresh == "round" else DEFAULT
        if given.form != form:
            raise FaultError("other_value", key="the form", said=given.form, own=f"has {form}")
        losses = [orthogonality(self.strength, self.penalty)] if self.strength else []
        x = given.parts["model"]
        if self.refresh == "step":
            trained = given.train(Hooks(losses=losses, gradients=[masked(self._by_step(given))]))
            return Answer({"model": trained.model}, trained.metrics)
        masks = of_round(self.draw, x, self.master, given.server_round)
        still = kept_still(given.model, masks)
        trained = given.train(
            Hooks(losses=losses, gradients=[masked(lambda: masks)], steps=[still])
        )
        change = {n: np.asarray(y - x[n]) for n, y in trained.model.items()}
        return Answer({MOVED: inside(change, masks)}, trained.metrics)

    def _by_step(self, given: Assignment) -> Callable[[], Masks]:
        """Return what draws the masks of one step after the other; of the first there are none."""
        rng, is_first = np.random.default_rng(given.seed), True

        def draw() -> Masks:
            nonlocal is_first
            was_first, is_first = is_first, False
            return {} if was_first else self.draw(given.theta0, rng)

        return draw


class RMLoRA(FedAvg):
    """The mean of the models, or of what moved.

    Parameters
    ----------
    k, unit, shared, refresh, master
        See `RMLoRAClient`.
    """

    def __init__(
        self, k: int, unit: str, shared: bool, refresh: str, master: int, **arguments: object
    ) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        self.k, self.unit, self.shared = k, unit, shared
        self.refresh, self.master = refresh, master
        self.x: dict[str, np.ndarray] = {}

    def check(self, cfg: DictConfig) -> None:
        """Check that there are factors to mask, and both halves do it alike; ConfigError if not."""
        check_local(cfg, CLIENT)
        check_shared(cfg, self, SHARED, "both ends draw the masks")
        if cfg.adapter.id != "lora":
            raise ConfigError(
                f"adapter.id={cfg.adapter.id} does not train both factors of a LoRA, which are "
                "masked and penalised together: set adapter=lora"
            )
        if self.k > cfg.adapter.r:
            raise ConfigError(
                f"strategy.inner.k={self.k} should be at most adapter.r={cfg.adapter.r}"
            )
        if cfg.strategy.local.strength and is_example_level(cfg):
            raise ConfigError(
                "strategy.local.strength adds a penalty to losses, and privacy=dp_sgd clips the "
                "gradients of rows: set strategy.local.strength=0"
            )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send x, and the form that the reply has."""
        self.x = {name: array.numpy() for name, array in arrays.items()}
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages if self.refresh == "round" else []:
            ((key, kept),) = message.content.config_records.items()
            said = ConfigRecord({**kept, FORM: MOVED})
            message.content = RecordDict({**message.content.array_records, key: said})
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the mean model."""
        mean, metrics = super().aggregate_train(server_round, replies)
        if mean is None or self.refresh == "step":
            return mean, metrics
        masks = of_round(Draw(self.k, self.unit, self.shared), self.x, self.master, server_round)
        new = {name: x.copy() for name, x in self.x.items()}
        for name, change in mean.items():
            new[name][masks.get(name, ...)] += cast(Array, change).numpy()
        return ArrayRecord({n: Array(v) for n, v in new.items()}), metrics
