"""``python -m benchmarks.published``: Fed-SB's published parameter counts, and what they omit.

The architectures are built from their published configurations on the meta device, so that nothing
is downloaded and no weight takes memory. The project's own LoRA adapter is attached, and its
trained parameters are counted by the rule that gives each published number. A second table adds
what those numbers omit: the other direction, the set-up of Fed-SB, NF4, and the number of rounds
after which Fed-SB has saved the bytes of its set-up. docs/fed_sb.md explains every rule. The exit
status is 1 if a published number is missed.

References
----------
Singhal et al., Fed-SB, arXiv 2502.15436.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import cast

import numpy as np
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from fl_app.adapters import ADAPTERS
from fl_app.codecs import Stream, from_spec
from fl_app.config import compose

Shape = tuple[int, ...]

FEDIT, FFA, FEDEX, FED_SB = "FedIT", "FFA-LoRA", "FedEx-LoRA = FLoRA", "Fed-SB"
LORA_RANK = 32
UNITS = {"K": 10**3, "M": 10**6}

LINEAR = "adapter.target_modules=[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj]"
QUERY_VALUE = "adapter.target_modules=[query,value] adapter.modules_to_save=[classifier]"


@dataclass(frozen=True)
class Setting:
    """One column of the published tables.

    Attributes
    ----------
    build : callable
        Returns the model; called on the meta device. Options that do not change the number of
        parameters have transformers' defaults.
    adapter : str
        Which modules are adapted, and which are trained whole, as overrides.
    clients : int
        Clients in the federation, all of which train in a round.
    published : dict
        Parameters communicated by (method, rank), with the digits that are known.
    """

    build: Callable[[], PreTrainedModel]
    adapter: str
    clients: int
    published: dict[tuple[str, int], str]

    @property
    def methods(self) -> list[tuple[str, int]]:
        """Methods and ranks: those with a published number, and FedIT to compare with."""
        return list(dict.fromkeys([(FEDIT, LORA_RANK), *self.published]))


SETTINGS = {
    "Mistral-7B, GSM8K": Setting(
        lambda: MistralForCausalLM(
            MistralConfig(  # mistralai/Mistral-7B-v0.1
                vocab_size=32000,
                hidden_size=4096,
                intermediate_size=14336,
                num_hidden_layers=32,
                num_attention_heads=32,
                num_key_value_heads=8,
                head_dim=128,
            )
        ),
        LINEAR,
        clients=25,
        published={
            (FEDIT, 32): "83.89M",
            (FFA, 32): "41.94M",
            (FEDEX, 32): "2097M",
            (FED_SB, 120): "3.23M",
            (FED_SB, 200): "8.96M",
        },
    ),
    "Gemma-2-9B, MATH": Setting(
        lambda: Gemma2ForCausalLM(
            Gemma2Config(  # google/gemma-2-9b
                vocab_size=256000,
                hidden_size=3584,
                intermediate_size=14336,
                num_hidden_layers=42,
                num_attention_heads=16,
                num_key_value_heads=8,
                head_dim=256,
            )
        ),
        LINEAR,
        clients=25,
        published={
            (FEDIT, 32): "108.04M",
            (FFA, 32): "54.02M",
            (FEDEX, 32): "2701M",
            (FED_SB, 120): "4.23M",
            (FED_SB, 200): "11.76M",
        },
    ),
    "Llama-3.2-3B, commonsense": Setting(
        lambda: LlamaForCausalLM(
            LlamaConfig(  # meta-llama/Llama-3.2-3B
                vocab_size=128256,
                tie_word_embeddings=True,
                hidden_size=3072,
                intermediate_size=8192,
                num_hidden_layers=28,
                num_attention_heads=24,
                num_key_value_heads=8,
                head_dim=128,
            )
        ),
        LINEAR,
        clients=5,
        published={
            (FEDIT, 32): "48.63M",
            (FFA, 32): "24.31M",
            (FEDEX, 32): "243.1M",
            (FED_SB, 120): "2.82M",
            (FED_SB, 200): "7.84M",
        },
    ),
    "BERT-base, SNLI": Setting(
        lambda: BertForSequenceClassification(
            BertConfig(  # google-bert/bert-base-cased
                vocab_size=28996,
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                id2label=dict(enumerate(["entailment", "neutral", "contradiction"])),
            )
        ),
        QUERY_VALUE,
        clients=3,
        published={(FFA, 32): "592K", (FEDEX, 32): "3546K", (FED_SB, 64): "100.6K"},
    ),
}


@dataclass(frozen=True)
class Parts:
    """Shapes of the tensors of an adapter of one rank.

    Attributes
    ----------
    a, b : list of shapes
        r x in and out x r, a pair for each adapted module.
    r : list of shapes
        r x r, what Fed-SB trains between the two.
    head : list of shapes
        What is trained whole: a classifier's weight and bias.
    weights : list of shapes
        out x in, the adapted modules' own.
    """

    a: list[Shape] = field(default_factory=list)
    b: list[Shape] = field(default_factory=list)
    r: list[Shape] = field(default_factory=list)
    head: list[Shape] = field(default_factory=list)
    weights: list[Shape] = field(default_factory=list)


@cache
def parts(name: str, rank: int) -> Parts:
    """Attach LoRA of a rank to a setting's model and return the shapes of its parts."""
    setting = SETTINGS[name]
    cfg = compose(f"adapter=lora adapter.r={rank} {setting.adapter}").adapter
    with torch.device("meta"):
        model = ADAPTERS["lora"].attach(setting.build(), cfg, 0)
    found = Parts()
    for module in model.modules():
        if isinstance(module, LoraLayer):
            a, b = _weight(module.lora_A["default"]), _weight(module.lora_B["default"])
            found.a.append(a)
            found.b.append(b)
            found.r.append((b[1], a[0]))
            found.weights.append(_weight(module.get_base_layer()))
    trained = ((n, p) for n, p in model.named_parameters() if p.requires_grad)
    found.head.extend(tuple(p.shape) for n, p in trained if "lora_" not in n)
    return found


def _weight(linear: nn.Module) -> Shape:
    return tuple(cast(torch.Tensor, linear.weight).shape)


@dataclass(frozen=True)
class Exchange:
    """Shapes of the tensors that one client and the server exchange.

    Attributes
    ----------
    up, down : list of shapes
        In every round.
    setup : list of shapes
        Down, once before the first round.
    """

    up: list[Shape]
    down: list[Shape]
    setup: list[Shape]


def exchange(name: str, method: str, rank: int) -> Exchange:
    """Return what a method has to send. FFA-LoRA's A and LoRA's start come from the seed.

    FedEx-LoRA's residual has a rank of at most clients x r, and FLoRA stacks: in both a client gets
    the A and B of all clients.
    """
    p = parts(name, rank)
    lora = p.a + p.b
    if method == FEDEX:
        return Exchange(lora + p.head, SETTINGS[name].clients * lora + p.head, [])
    trained = {FEDIT: lora, FFA: p.b, FED_SB: p.r}[method] + p.head
    return Exchange(trained, trained, lora if method == FED_SB else [])


def counted(name: str, method: str, rank: int) -> int:
    """Return the scalars that the published number counts, by the rules of docs/fed_sb.md.

    Two rules do not count what is sent: FFA-LoRA's counts half of A and B instead of B, and that of
    FedEx-LoRA and FLoRA counts the head, which is averaged, once for every client.
    """
    p = parts(name, rank)
    lora, head = scalars(p.a + p.b), scalars(p.head)
    rules = {
        FEDIT: lora + head,
        FFA: lora // 2 + head,
        FEDEX: SETTINGS[name].clients * (lora + head),
        FED_SB: scalars(p.r) + head,
    }
    return rules[method]


def scalars(shapes: Iterable[Shape]) -> int:
    """Return the number of values of tensors of these shapes."""
    return sum(map(math.prod, shapes))


def payload(codec: str, shapes: Iterable[Shape]) -> int:
    """Return the bytes that a codec's encoder writes for tensors of these shapes."""
    return sum(times * _encoded(codec, shape) for shape, times in Counter(shapes).items())


@cache
def _encoded(codec_id: str, shape: Shape) -> int:
    codec = from_spec({"id": codec_id})
    tree = {"x": np.zeros(shape, np.float32)}
    wire, _ = codec.encode(tree, codec.init(tree), tree)
    return wire.nbytes


def per_round(name: str, method: str, rank: int, codec: str) -> int:
    """Return a client's bytes of a round, both directions."""
    e = exchange(name, method, rank)
    return payload(codec, e.up) + payload(codec, e.down)


def setups(name: str, method: str, rank: int) -> dict[str, int]:
    """Return a client's bytes before the first round, by the initialization.

    B and A go down in fp32. With ``client_mean`` a bit for each adapted weight goes up before.
    """
    factors = payload("fp32", exchange(name, method, rank).setup)
    signs = Stream(bits=1, count=scalars(parts(name, rank).weights)).nbytes
    return {"server_public": factors, "client_mean": factors + signs}


def break_even(name: str, rank: int, codec: str, init: str) -> float:
    """Return the rounds after which Fed-SB has sent no more than FedIT of rank 32, same codec."""
    saved = per_round(name, FEDIT, LORA_RANK, codec) - per_round(name, FED_SB, rank, codec)
    return setups(name, FED_SB, rank)[init] / saved


def to_digits(number: int, published: str) -> str:
    """Write a number with the unit and the digits of a published one."""
    digits = len(published[:-1].partition(".")[2])
    return f"{number / UNITS[published[-1]]:.{digits}f}{published[-1]}"


def published_rows() -> tuple[list[str], bool]:
    """Return the lines of the first table, and whether all published numbers are met."""
    lines, met = [], True
    for name, setting in SETTINGS.items():
        for (method, rank), number in setting.published.items():
            count, sent = counted(name, method, rank), exchange(name, method, rank)
            ours = to_digits(count, number)
            met &= ours == number
            lines.append(
                f"| {name} | {method} {rank} | {count:,} | {ours} | {number} "
                f"| {'yes' if ours == number else 'NO'} "
                f"| {scalars(sent.up):,} | {scalars(sent.down):,} |"
            )
    return lines, met


def omitted_rows() -> list[str]:
    """Return the lines of the second table."""
    lines = []
    for name, setting in SETTINGS.items():
        fedit = per_round(name, FEDIT, LORA_RANK, "fp32")
        for method, rank in setting.methods:
            sent = exchange(name, method, rank)
            cells = [
                f"{_mb(payload(codec, sent.up))} + {_mb(payload(codec, sent.down))}"
                for codec in ("fp32", "nf4")
            ]
            before = setups(name, method, rank) if sent.setup else {}
            cells += [_mb(size) for size in before.values()] or ["0", "0"]
            cells += [
                " / ".join(f"{break_even(name, rank, codec, init):.2f}" for init in before) or "–"
                for codec in ("fp32", "nf4")
            ]
            one = before.get("server_public", 0) + per_round(name, method, rank, "fp32")
            cells += [_mb(one), f"{one / fedit:.2f}"]
            lines.append(f"| {name} | {method} {rank} | {' | '.join(cells)} |")
    return lines


def _mb(size: int) -> str:
    return f"{size / 10**6:,.4g}" if size < 10**9 else f"{size / 10**6:,.0f}"


def table(header: str, lines: list[str]) -> str:
    """Return a Markdown table."""
    return "\n".join([header, "|" + "---|" * (header.count("|") - 1), *lines])


def report() -> tuple[str, bool]:
    """Return both tables, and whether all published numbers are met."""
    lines, met = published_rows()
    first = table(
        "| setting | method, rank | counted | ours | published | met | scalars up | down |", lines
    )
    second = table(
        "| setting | method, rank | fp32, up + down | NF4, up + down | set-up, server_public "
        "| client_mean | break-even, fp32 | NF4 | first round and set-up, fp32 | x FedIT |",
        omitted_rows(),
    )
    return f"{first}\n\nOne client, MB of 10^6 bytes:\n\n{second}", met


def main() -> None:
    """Print the tables; exit with 1 if a published number is missed."""
    text, met = report()
    print(text)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
