"""LiGO's operator: a larger model's weights as a learned linear map of a smaller model's.

Wang et al., "Learning to Grow Pretrained Models for Efficient Transformer Training" (2023,
https://arxiv.org/abs/2303.00980). For a weight W of layer l of the larger model, with the weights
W_1 ... W_L1 of that kind in the smaller one::

    Wbar = sum_j w_lj W_j                        depth: w in R^(L2 x L1), of each kind of weight
    W    = [I; E_out] Wbar [I, E_in^T]           width: E in R^((D2 - D1) x D1), see ``axes``

Biases and vectors of norms grow by E_out alone, with a w of their own. Only w and E are trained.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fl_app.adapters.ligo.axes import ATTENDED, FAMILIES, VALUE, Place, place, rule
from fl_app.adapters.ligo.rules import SELECT, STACK


class Growth(NamedTuple):
    """How one weight of the larger model comes about.

    Attributes
    ----------
    sources : tuple of str
        The smaller model's weights of that kind, by layer.
    depth : str or None
        The key of w; None for a weight outside of layers, which is taken as it is.
    row : int
        The row of w: the layer of the larger model, counted among those that have the kind.
    axes : tuple of str or None
        The key of E of each axis; None: the axis stays as long as it is.
    """

    sources: tuple[str, ...]
    depth: str | None
    row: int
    axes: tuple[str | None, ...]


class GrowthOperator(nn.Module):
    """w and E, and the smaller model, which stays as it is.

    Parameters
    ----------
    small, large : PreTrainedModel
        Of the same class.
    kept : sequence of str
        Modules that are equal in both and do not grow.
    depth : str
        Start of w: "stack", layer l is layer l mod L1, or "interlace", layer floor(l L1 / L2).
    noise : float
        Standard deviation of what is added to w, whose rows are then made to sum to 1.
    width : str
        Start of E: "random", rows of uniform numbers that sum to 1, or "select", a row of the
        identity each.
    seed : int
        Seed of both.

    Raises
    ------
    ValueError
        If a weight is unknown, or the larger model is smaller somewhere.
    """

    def __init__(
        self,
        small: PreTrainedModel,
        large: PreTrainedModel,
        kept: tuple[str, ...],
        *,
        depth: str,
        noise: float,
        width: str,
        seed: int,
    ) -> None:
        super().__init__()
        self.small = small
        self.depth, self.width = nn.ParameterDict(), nn.ParameterDict()
        self.growths, sizes = plan(small, large, kept)
        rng = np.random.Generator(np.random.PCG64(seed))
        for key, (d1, d2) in sorted(sizes.items()):
            if d2 > d1:
                self.width[_word(key)] = nn.Parameter(_width(d2 - d1, d1, width, rng))
        layers: dict[str, int] = {}
        for growth in self.growths.values():
            if growth.depth is not None:
                layers[growth.depth] = max(layers.get(growth.depth, 0), growth.row + 1)
        for key, count in sorted(layers.items()):
            sources = next(len(g.sources) for g in self.growths.values() if g.depth == key)
            self.depth[_word(key)] = nn.Parameter(_depth(count, sources, depth, noise, rng))

    def grown(self, name: str) -> Tensor:
        """Return the weight of the larger model that is called so."""
        growth = self.growths[name]
        return self.mapped(growth, [self.small.get_parameter(one) for one in growth.sources])

    def mapped(self, growth: Growth, sources: Sequence[Tensor]) -> Tensor:
        """Return what becomes of weights of the smaller model, or of changes of them."""
        w, weight = self.mixing(growth), sources[0]
        if w is not None:
            weight = torch.einsum("j,j...->...", w, torch.stack(tuple(sources)))
        for axis, key in enumerate(growth.axes):
            weight = self.widened(weight, axis, key)
        return weight

    def mixing(self, growth: Growth) -> Tensor | None:
        """Return w_l, of as many numbers as there are sources; None outside of layers."""
        return None if growth.depth is None else self.depth[_word(growth.depth)][growth.row]

    def widened(self, weight: Tensor, axis: int, key: str | None) -> Tensor:
        """Return the weight with new units on an axis that has this key of E, if it grows."""
        if key is None or _word(key) not in self.width:
            return weight
        return expanded(weight, self.width[_word(key)], axis)

    def version(self) -> tuple[Any, ...]:
        """Return what changes whenever w or E do."""
        trained = (*self.depth.values(), *self.width.values())
        return tuple((p._version, p.device) for p in trained)


def expanded(weight: Tensor, expander: Tensor, axis: int) -> Tensor:
    """Return [I; E] W for axis 0, W [I, E^T] for axis 1."""
    new = expander @ weight if axis == 0 else weight @ expander.T
    return torch.cat([weight, new], dim=axis)


def graft(large: PreTrainedModel, operator: GrowthOperator) -> None:
    """Make the operator compute the weights of ``large``, each time a module needs its own.

    With gradients they are computed for every pass; without, once until w or E change.
    """
    for module, names in _owners(large, operator.growths):
        for leaf, name in names.items():
            delattr(module, leaf)
            setattr(module, leaf, operator.grown(name).detach())
        module.register_forward_pre_hook(_Refresh(operator, names))
    large.ligo = operator


def materialized(large: PreTrainedModel) -> PreTrainedModel:
    """Return the grown model with weights of its own, as transformers builds it."""
    operator = cast(GrowthOperator, large.ligo)
    kept = {n: p for n, p in large.named_parameters() if not n.startswith("ligo.")}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        whole = type(large)(large.config)
        for name, parameter in whole.named_parameters():
            parameter.copy_(kept[name] if name in kept else operator.grown(name))
    if large.can_generate():
        whole.generation_config = large.generation_config
    return whole.eval()


class _Refresh:
    """A forward hook that gives a module the weights of the operator's present state."""

    def __init__(self, operator: GrowthOperator, names: Mapping[str, str]) -> None:
        self.operator, self.names = operator, names
        self.version: tuple[Any, ...] | None = None

    def __call__(self, module: nn.Module, args: Any) -> None:
        version = None if torch.is_grad_enabled() else self.operator.version()
        if version is None or version != self.version:
            for leaf, name in self.names.items():
                setattr(module, leaf, self.operator.grown(name))
        self.version = version


def _owners(
    large: nn.Module, growths: Mapping[str, Growth]
) -> Iterator[tuple[nn.Module, dict[str, str]]]:
    """Yield each module that has weights of its own, with their names; tied ones by the first."""
    first: dict[int, str] = {}
    for name, parameter in large.named_parameters():
        first[id(parameter)] = name
    for module in [*large.modules()]:
        own = {
            leaf: first[id(parameter)]
            for leaf, parameter in module.named_parameters(recurse=False)
            if first[id(parameter)] in growths
        }
        if own:
            yield module, own


def plan(
    small: PreTrainedModel, large: PreTrainedModel, kept: tuple[str, ...]
) -> tuple[dict[str, Growth], dict[str, tuple[int, int]]]:
    """Return how each weight of ``large`` comes about, and D1 and D2 of every expander.

    Raises
    ------
    ValueError
        If a weight is unknown, or the larger model is smaller somewhere.
    """
    growths = _growths(small, large, kept)
    sizes = _sizes(growths, dict(small.named_parameters()), dict(large.named_parameters()))
    return growths, sizes


def _growths(
    small: PreTrainedModel, large: PreTrainedModel, kept: tuple[str, ...]
) -> dict[str, Growth]:
    family = FAMILIES.get(large.config.model_type)
    if family is None:
        raise ValueError(
            f"adapter=ligo grows the models of {', '.join(FAMILIES)}, not a "
            f"{large.config.model_type}"
        )
    stays = tuple(f"{name}." for name in kept)
    sources: dict[tuple[str, str], dict[int, str]] = {}
    for name, _ in small.named_parameters():
        if not name.startswith(stays):
            at = place(family, name)
            sources.setdefault((at.stack, at.kind), {})[at.layer] = name
    there: dict[tuple[str, str], list[Place]] = {}
    growths: dict[str, Growth] = {}
    for name, parameter in large.named_parameters():
        if name.startswith(stays):
            continue
        at = place(family, name)
        own = sources.get((at.stack, at.kind))
        if own is None:
            raise ValueError(f"adapter.config gives the larger model {name}, which the base lacks")
        above = there.setdefault((at.stack, at.kind), [])
        growths[name] = Growth(
            tuple(own[layer] for layer in sorted(own)),
            f"{at.stack}.{at.kind}" if at.stack else None,
            len(above),
            rule(family, at, parameter.ndim),
        )
        above.append(at)
    for (stack, kind), own in sources.items():
        if (count := len(there.get((stack, kind), ()))) < len(own):
            raise ValueError(
                f"adapter.config: the larger model has {count} of {f'{stack} {kind}'.strip()} "
                f"where the base has {len(own)}: it must have at least as many layers"
            )
    return growths


def _sizes(
    growths: dict[str, Growth], small: Mapping[str, Tensor], large: Mapping[str, Tensor]
) -> dict[str, tuple[int, int]]:
    """Return D1 and D2 of every expander; an output projection has the values' where they agree."""
    sizes: dict[str, tuple[int, int]] = {}
    for name, growth in growths.items():
        for axis, key in enumerate(growth.axes):
            d1, d2 = small[growth.sources[0]].shape[axis], large[name].shape[axis]
            if d2 < d1 or (key is None and d2 != d1):
                raise ValueError(
                    f"adapter.config: {name} has {d2} where the base has {d1}: the larger model "
                    "must be at least as large, with the same words and positions"
                )
            if key is not None:
                sizes[key] = (d1, d2)
    for name, growth in growths.items():
        axes = [_value(key, sizes) for key in growth.axes]
        growths[name] = growth._replace(axes=tuple(axes))
    return {key: size for key, size in sizes.items() if _value(key, sizes) == key}


def _value(key: str | None, sizes: Mapping[str, tuple[int, int]]) -> str | None:
    if key is None or not key.endswith(ATTENDED):
        return key
    value = key.removesuffix(ATTENDED) + VALUE
    return value if sizes[value] == sizes[key] else key


def _depth(count: int, sources: int, start: str, noise: float, rng: np.random.Generator) -> Tensor:
    """Return w [layers of the larger model, of the smaller one], whose rows sum to 1."""
    rows = np.arange(count)
    at = rows % sources if start == STACK else rows * sources // count
    w = np.eye(sources)[at] + noise * 12**0.5 * (rng.random((count, sources)) - 0.5)
    return torch.from_numpy((w / w.sum(1, keepdims=True)).astype(np.float32))


def _width(new: int, old: int, start: str, rng: np.random.Generator) -> Tensor:
    """Return E [new, old]."""
    if start == SELECT:
        rows = np.eye(old)[rng.integers(old, size=new)]
    else:
        rows = rng.random((new, old))
        rows /= rows.sum(1, keepdims=True)
    return torch.from_numpy(rows.astype(np.float32))


def _word(key: str) -> str:
    """Return a name that torch takes for a parameter."""
    return key.replace(".", "/")
