"""``python -m benchmarks.peft_methods``: the table of PEFT's methods in docs/methods.md.

Scalars are counted by attaching each method to the embedded vt5-tiny, over the modules that PEFT
chooses for a T5. What a method is not for comes from ``fl_app.adapters.peft_methods.support``, of
which ``make test-methods`` tries every cell.
"""

import sys

from omegaconf import OmegaConf

from benchmarks.markdown import table
from fl_app import models
from fl_app.adapters.peft_methods import adapter, declared, support
from fl_app.config import compose
from fl_app.tree import scalars

WHAT = {
    "ADAPTION_PROMPT": "prompts in attention, by a gate (for GPT-2, Llama, Mistral)",
    "BEFT": "biases of chosen layers",
    "BOFT": "rotations of W by butterfly factors",
    "C3A": "circular convolutions, block by block",
    "CARTRIDGE": "keys and values before the text; the first ones stay",
    "DEFT": "a projection of W, and what is put in its place",
    "DELORA": "a normalized LoRA and its strength",
    "FOURIERFT": "coefficients of a Fourier transform of the change",
    "FROD": "a diagonal and sparse entries in a basis of the layers together",
    "GLORA": "W0 + W0 A + B, and shifts of the bias",
    "GRALORA": "LoRA in k x k blocks",
    "HIRA": "W0 times B A, entry by entry",
    "HRA": "Householder reflections of W",
    "IA3": "scales of keys, values and of the feed-forward's states",
    "LILY": "an A for some layers, Bs for all, and a router",
    "LN_TUNING": "weights of normalizations",
    "LOHA": "Hadamard product of two low-rank products",
    "LOKR": "Kronecker product of two factors",
    "LORA": "A and B; DoRA, rsLoRA and ranks by module are options",
    "MISS": "a small matrix, repeated over the inputs",
    "OFT": "rotations of W in blocks",
    "OSF": "all of W but its largest directions",
    "PEANUT": "a small network of W itself",
    "PREFIX_TUNING": "keys and values before the text",
    "PROMPT_TUNING": "embeddings before the text",
    "PSOFT": "a rotation in the main subspace of W",
    "PVERA": "scales as in VERA, of a distribution in training",
    "P_TUNING": "a network that makes the embeddings before the text",
    "RANDLORA": "scales of many random products",
    "ROAD": "rotations of pairs of outputs",
    "SHIRA": "entries of W at random places",
    "SUPERTUNING": "the largest entries of W",
    "TINYLORA": "a few numbers through fixed projections of W's directions",
    "TRAINABLE_TOKENS": "embeddings of chosen tokens",
    "UNILORA": "one vector, spread over all A and B",
    "VBLORA": "a bank of vectors, and which of them make A and B",
    "VERA": "scales of two random projections",
    "WAVEFT": "coefficients of a wavelet transform of the change",
}
# Where PEFT's own sizes do not divide those of vt5-tiny.
SIZES = {"C3A": {"block_size": 64}, "VBLORA": {"vector_length": 64}}
HEADER = ("`adapter.method`", "trained and sent", "scalars", "start", "merges", "bits", "not for")


def row(method: str) -> tuple[str, ...]:
    """Return the line of a method."""
    virtual = declared.is_prompt_learning(method)
    merges = "" if virtual or method in support.NOT_MERGED else "yes"
    return (
        f"`{method}`",
        WHAT[method],
        counted(method),
        "another" if virtual or method in support.CHANGED_START else "the base",
        "with biases" if method == "BEFT" else merges,
        "4, 8" if method in support.QUANTIZED else "",
        ", ".join(not_for(method, virtual)),
    )


def not_for(method: str, virtual: bool) -> list[str]:
    """Return the kinds of models that a method is refused for."""
    found = ["GPT-2"] if method in support.NO_CONV1D else []
    if method in support.CACHED or "modules_to_save" not in declared.fields(method):
        found.append("classifiers")
    elif virtual:
        found.append("classifiers but encoders")
    return [*found, "documents"] if virtual and method != support.PAGE_PROMPTS else found


def counted(method: str) -> str:
    """Return how many scalars are sent from vt5-tiny; empty for methods that it cannot have."""
    if method in support.REQUIRED:
        return ""
    cfg = compose("model=vt5-tiny data=docvqa_mini")
    base, _ = models.load_vt5(cfg.model, 0)
    args = OmegaConf.create({"method": method, "args": SIZES.get(method, {})})
    return f"{scalars(adapter.get(adapter.attach(base, args, 0))):,}"


def made() -> str:
    """Return the tables, in Markdown."""
    methods = sorted({*declared.methods()} - {*support.REFUSED})
    refused = [(f"`{name}`", why) for name, why in sorted(support.REFUSED.items())]
    return f"{table(HEADER, [row(name) for name in methods])}\n{table(('refused', 'why'), refused)}"


def main() -> int:
    """Print the tables; return the exit status."""
    print(made())
    return 0


if __name__ == "__main__":
    sys.exit(main())
