"""Quantization-aware turns: a client trains what its codec will send, for any server's half.

With ``x = theta - theta_ref`` and the quantizer Q of ``codec.up``, from a share ``start`` of the
turn's steps on::

    theta <- theta - eta grad L(theta_ref + Q(x)),     x <- sign(x) max(|x| - eta lambda, 0)

and theta_ref + Q(x) is sent, see ``fl_app.training.hooks.quantization``. The straight-through
gradient is that of Bengio et al. 2013 (https://arxiv.org/abs/1308.3432) and Jacob et al. 2018
(https://arxiv.org/abs/1712.05877), who train whole networks so. What is ours: Q is the codec's, of
the change since a reference, and by round. The server's half is the strategy's own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fl_app.training.hooks.quantization import (
    Floats,
    Group,
    QuantizationAware,
    Rounded,
    sign,
    step_for,
    ternary,
    uniform,
)
from fl_app.training.local import Answer, Assignment, LocalMethod
from fl_app.tree import Tree, zeros

QUANTIZERS = ("uniform", "ternary", "sign")
AROUND = ("entropy", "chain", "delta")  # what leaves multiples of a step as they are
SETTINGS = ("error", "shrink")
ByTensor = float | Mapping[str, float]


class QuantizationAwareClient(LocalMethod):
    """Local steps on theta_ref + Q(x).

    Parameters
    ----------
    codec : dict
        The spec of ``codec.up``, whose quantizer is Q: `uniform` with ``grid``, so that nothing is
        quantized twice, `ternary` or `sign`; around it at most `delta` and lossless stages.
    reference : str
        ``codec.reference``: theta_ref is "theta0" or the "broadcast" if the codec has `delta`, and
        else 0.
    start : float
        Share of a turn's steps before the first that is quantized, in [0, 1).
    turns : sequence of dict
        Settings of rounds 1, 2 and so on, of which the last one's hold for later rounds. ``error``
        of `uniform`, in place of the codec's, and ``shrink``, lambda, by default 0: a number, or a
        mapping from the ends of tensors' names to numbers.
    """

    def __init__(
        self,
        codec: Mapping[str, Any],
        reference: str = "theta0",
        start: float = 0.25,
        turns: Sequence[Mapping[str, ByTensor]] = (),
    ) -> None:
        self.quantizer, self.has_delta = quantizer(codec)
        if self.quantizer["id"] == "uniform":
            if not self.quantizer.get("grid"):
                raise ValueError(
                    "codec.up has uniform without grid: true: it would quantize a second time"
                )
            if self.quantizer.get("scope", "tree") == "tree" and any(
                isinstance(turn.get("error"), Mapping) for turn in turns
            ):
                raise ValueError(
                    "turns have an error for each tensor, and codec.up one step for all: set its "
                    "scope: tensor"
                )
        if isinstance(start, bool) or not isinstance(start, (int, float)) or not 0 <= start < 1:
            raise ValueError(f"start={start!r} should be in [0, 1)")
        self.reference, self.start_share, self.turns = reference, float(start), list(turns)
        for number, turn in enumerate(self.turns):
            self._check_turn(f"turns[{number}]", turn)

    def _check_turn(self, where: str, turn: Mapping[str, ByTensor]) -> None:
        if unknown := sorted({*turn} - {*SETTINGS}):
            raise ValueError(f"{where}.{unknown[0]} should be one of {', '.join(SETTINGS)}")
        if "error" in turn and self.quantizer["id"] != "uniform":
            raise ValueError(f"{where}.error is for uniform, codec.up has {self.quantizer['id']}")
        for key, said in turn.items():
            for value in said.values() if isinstance(said, Mapping) else [said]:
                is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
                least, most = (1e-4, 1.0) if key == "error" else (0.0, float("inf"))
                if not (is_number and least <= value < most):
                    raise ValueError(f"{where}.{key}={value!r} should be in [{least:g}, {most:g})")

    def check(self, theta0: Tree) -> None:
        """Check that every tensor that a turn names is trained, and has an error; ValueError."""
        for number, turn in enumerate(self.turns):
            for key, said in turn.items():
                if not isinstance(said, Mapping):
                    continue
                for end in said:
                    if not any(_ends(name, end) for name in theta0):
                        raise ValueError(
                            f"strategy.local.turns[{number}].{key}.{end}: no trained tensor's name "
                            f"ends so; there are {', '.join([*theta0][:5])}"
                        )
                lost = [name for name in theta0 if _value(said, name) is None]
                if key == "error" and lost and not self._has_own_step:
                    raise ValueError(f"strategy.local.turns[{number}].error has none for {lost[0]}")

    @property
    def _has_own_step(self) -> bool:
        return any(self.quantizer.get(key) for key in ("error", "bits", "adaptive"))

    def run(self, given: Assignment) -> Answer:
        """Train on the grid, and return what lies on it."""
        turn = self.turns[min(given.server_round, len(self.turns)) - 1] if self.turns else {}
        shrink = {n: _value(turn.get("shrink", 0.0), n) or 0.0 for n in given.theta0}
        aware = QuantizationAware(
            self._theta_ref(given),
            self._groups([*given.theta0], turn.get("error")),
            self.start_share,
            {name: weight for name, weight in shrink.items() if weight},
        )
        trained = given.train(aware.hooks())
        return Answer({"model": trained.model}, trained.metrics)

    def _theta_ref(self, given: Assignment) -> Tree:
        if not self.has_delta:
            return zeros(given.theta0)
        return given.theta0 if self.reference == "theta0" else given.parts["model"]

    def _groups(self, names: list[str], error: ByTensor | None) -> list[Group]:
        """Return which tensors share a step or a scale, as in the codec."""
        default = "tree" if self.quantizer["id"] == "uniform" else "tensor"
        if self.quantizer.get("scope", default) == "tree":
            return [Group(names, self._fit(error if isinstance(error, float) else None))]
        return [Group([name], self._fit(_value(error, name))) for name in names]

    def _fit(self, error: float | None) -> Callable[[Floats], Rounded]:
        said = self.quantizer
        if said["id"] == "ternary":
            return ternary
        if said["id"] == "sign":
            return sign
        own = error if error is not None else said.get("error")
        return lambda x: uniform(step_for(x, own, said.get("bits")))


def quantizer(codec: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Return a codec's quantizer, and whether that gets the change since a reference.

    Raises
    ------
    ValueError
        If the codec has none, or something around it that takes values off the grid.
    """
    links = [codec]
    has_delta = False
    while links:
        link = links.pop(0)
        if link["id"] in QUANTIZERS:
            if isinstance(link.get("scope"), int):
                raise ValueError(f"codec.up has {link['id']} with groups inside of tensors")
            return link, has_delta
        if link["id"] not in AROUND:
            break
        has_delta |= link["id"] == "delta"
        links += [*link.get("links", []), *([link["inner"]] if "inner" in link else [])]
    raise ValueError(
        f"codec.up={codec['id']} should be one of {', '.join(QUANTIZERS)}, with nothing around it "
        f"but {', '.join(AROUND)}: set codec=grid, for example"
    )


def _ends(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end}")


def _value(said: ByTensor | None, name: str) -> float | None:
    if not isinstance(said, Mapping):
        return None if said is None else float(said)
    return next((float(value) for end, value in said.items() if _ends(name, end)), None)
