"""Which axis of a weight grows by which expander, for each architecture (LiGO's tying rules).

All that reads or writes the residual stream shares one expander. Query, key, value and hidden units
of the feed-forward network have one in each layer of the larger model; the output projection of
attention reads what the values are, and the second feed-forward layer what the first one writes.
Where several heads of queries share a head of values, the output projection has its own.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

RESIDUAL = "residual"
KEPT = None  # an axis that does not grow: words, positions, labels
VALUE, ATTENDED = "value", "attended"  # one expander where they are as many

Rule = tuple[str | None, ...]
"""The expander of each axis of a matrix, outputs first; a vector has that of the first axis."""


class Place(NamedTuple):
    """Where a weight stands.

    Attributes
    ----------
    stack : str
        The path of its layers; "" outside of them.
    layer : int
        Its layer, 0 outside of layers.
    kind : str
        Its name within a layer, or the whole name.
    """

    stack: str
    layer: int
    kind: str


class Family(NamedTuple):
    """The weights of an architecture.

    Attributes
    ----------
    stacks : tuple of str
        Paths of lists of layers.
    inside, outside : mapping of Rule
        The rule of each module, by a pattern of its path within a layer, or of its whole path.
    """

    stacks: tuple[str, ...]
    inside: Mapping[str, Rule]
    outside: Mapping[str, Rule]


def _attention(path: str, query: str, key: str, value: str, output: str, prefix: str = "") -> dict:
    return {
        rf"{path}\.{query}": (f"{prefix}query", RESIDUAL),
        rf"{path}\.{key}": (f"{prefix}key", RESIDUAL),
        rf"{path}\.{value}": (f"{prefix}{VALUE}", RESIDUAL),
        output: (RESIDUAL, f"{prefix}{ATTENDED}"),
    }


BERT = Family(
    stacks=(r"(?:bert|roberta)\.encoder\.layer",),
    inside={
        **_attention(r"attention\.self", "query", "key", "value", r"attention\.output\.dense"),
        r"intermediate\.dense": ("hidden", RESIDUAL),
        r"output\.dense": (RESIDUAL, "hidden"),
        r"(attention\.)?output\.LayerNorm": (RESIDUAL,),
    },
    outside={
        r"\w+\.embeddings\.\w+_embeddings": (KEPT, RESIDUAL),
        r"\w+\.embeddings\.LayerNorm": (RESIDUAL,),
        r"\w+\.pooler\.dense|classifier\.dense": ("pooler", RESIDUAL),
        r"classifier(\.out_proj)?": (KEPT, "pooler"),
    },
)
LLAMA = Family(
    stacks=(r"model\.layers",),
    inside={
        **_attention("self_attn", "q_proj", "k_proj", "v_proj", r"self_attn\.o_proj"),
        r"mlp\.(gate|up)_proj": ("hidden", RESIDUAL),
        r"mlp\.down_proj": (RESIDUAL, "hidden"),
        r"(input|post_attention)_layernorm": (RESIDUAL,),
    },
    outside={
        r"model\.embed_tokens|lm_head|score": (KEPT, RESIDUAL),
        r"model\.norm": (RESIDUAL,),
    },
)
T5 = Family(
    stacks=(r"encoder\.block", r"decoder\.block"),
    inside={
        **_attention(r"layer\.0\.SelfAttention", "q", "k", "v", r"layer\.0\.SelfAttention\.o"),
        **_attention(
            r"layer\.1\.EncDecAttention", "q", "k", "v", r"layer\.1\.EncDecAttention\.o", "cross_"
        ),
        r"layer\.0\.SelfAttention\.relative_attention_bias": (KEPT, "heads"),
        r"layer\.\d\.DenseReluDense\.wi(_\d)?": ("hidden", RESIDUAL),
        r"layer\.\d\.DenseReluDense\.wo": (RESIDUAL, "hidden"),
        r"layer\.\d\.layer_norm": (RESIDUAL,),
    },
    outside={
        r"shared|lm_head": (KEPT, RESIDUAL),
        r"(encoder|decoder)\.final_layer_norm": (RESIDUAL,),
        r"spatial\.[xy]": (KEPT, RESIDUAL),
        r"spatial\.norm": (RESIDUAL,),
        r"spatial\.matcher": (RESIDUAL, RESIDUAL),
        r"spatial\.projection|visual_matcher": (RESIDUAL, KEPT),
    },
)
FAMILIES: Mapping[str, Family] = {
    "bert": BERT, "roberta": BERT, "llama": LLAMA, "mistral": LLAMA, "qwen2": LLAMA, "t5": T5,
    "vt5": T5,
}  # fmt: skip


def place(family: Family, name: str) -> Place:
    """Return where the parameter of this name stands."""
    for stack in family.stacks:
        if found := re.fullmatch(rf"({stack})\.(\d+)\.(.+)", name):
            return Place(found[1], int(found[2]), found[3])
    return Place("", 0, name)


def rule(family: Family, where: Place, dimensions: int) -> Rule:
    """Return the expander of each axis of a parameter; those of a layer have its path before them.

    Raises
    ------
    ValueError
        If the architecture has no such weight, as far as this table knows.
    """
    module, _, _ = where.kind.rpartition(".")
    rules = family.inside if where.stack else family.outside
    for pattern, axes in rules.items():
        if re.fullmatch(pattern, module):
            return tuple(_full(axis, where) for axis in axes[:dimensions])
    raise ValueError(
        f"adapter=ligo does not know what the weight {where.kind!r} is: it grows the models of "
        f"{', '.join(FAMILIES)} (fl_app/adapters/ligo/axes.py)"
    )


def _full(axis: str | None, where: Place) -> str | None:
    shared = axis is KEPT or axis == RESIDUAL or not where.stack
    return axis if shared else f"{where.stack}.{where.layer}.{axis}"
