"""Train the embedded decoder: ``python -m fl_app.pretraining.llama --out DIR``.

This trains a tokenizer and a tiny Llama on a stream of arithmetic expressions and word problems of
pretraining providers. It is deterministic (one thread, one seed) and takes some minutes of one CPU
core.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from fl_app.config import compose
from fl_app.data import load as load_data
from fl_app.data.random_streams import choose
from fl_app.data.stories import FEDERATED, PRETRAINING, UNSEEN
from fl_app.data.word_problems import (
    POOLS,
    PRETRAINING_PROVIDERS,
    PRETRAINING_SEED,
    make_expression,
    make_problem,
    make_problems,
    make_provider,
)
from fl_app.pretraining.common import SPECIAL, arguments, finished, one_cycle, save
from fl_app.tasks import build
from fl_app.tasks.base import Task

VOCABULARY = 700
EXPRESSIONS = 48  # per step
STORIES = 32  # per step
WITH_FILLERS = 0.5  # share of the stories that get filler words
LEARNING_RATE = 3e-3
WARM_UP = 0.05  # share of the steps
OVERRIDES = "model=llama-tiny data=word_problems task=word_problems"

Step = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""The rows of a step: expressions and stories."""


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train a byte-pair encoding of lower-cased words, in which every digit is one piece."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r" ?\d|####|\n| ?[^\W\d]+| ?[^\w\s]|\s"), behavior="isolated"
    )
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz0123456789"),
        show_progress=False,
    )
    # The tokenizer also learns the spelling of the federated stories, as that of a large model
    # would know it. The model sees their words only as fillers, see ``add_fillers``.
    rows = [
        row for pool in POOLS.values() for row in make_problems(seed, pool, range(400), range(4))
    ]
    rng = np.random.default_rng(seed)
    rows += [make_expression(rng) for _ in range(400)]
    tokenizer.train_from_iterator([f"{r['instruction']}\n{r['output']}" for r in rows], trainer)
    return finished(tokenizer)


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return the model, with weights from torch's global generator."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def stream(seed: int, steps: int) -> Iterator[Step]:
    """Yield the expressions and the word problems of each step.

    The problems are of random pretraining providers, and none is repeated.
    """
    pool = POOLS["pretraining"]
    rng = np.random.default_rng(seed)
    providers = [make_provider(seed, pool, number) for number in range(PRETRAINING_PROVIDERS)]
    fillers = filler_words()
    for step in range(steps):
        stories = []
        for k, number in enumerate(rng.integers(PRETRAINING_PROVIDERS, size=STORIES).tolist()):
            row = make_problem(seed, pool, number, providers[number], STORIES * step + k)
            if rng.random() < WITH_FILLERS:
                row["instruction"] = add_fillers(rng, row["instruction"], fillers)
            stories.append(row)
        yield [make_expression(rng) for _ in range(EXPRESSIONS)], stories


def filler_words() -> list[str]:
    """Return all words of all kinds of story that name no operation in the pretraining kinds."""

    def words(texts: Iterable[str]) -> set[str]:
        return {word.lower() for text in texts for word in re.findall(r"(?<!{)\b[A-Za-z]+", text)}

    telling = words(t for kind in PRETRAINING for texts in kind.events.values() for t in texts)
    known: set[str] = set()
    for kind in (*PRETRAINING, *FEDERATED, *UNSEEN):
        events = [text for texts in kind.events.values() for text in texts]
        known |= words([*kind.items, *kind.openings, *kind.questions, *events])
    return sorted(known - telling)


def add_fillers(rng: np.random.Generator, instruction: str, fillers: Sequence[str]) -> str:
    """Return a story with filler words between its phrases.

    With these, a model that has seen only a few kinds of story finds the numbers in a new kind, but
    not yet the operations.
    """

    def some() -> list[str]:
        return [choose(rng, fillers) for _ in range(int(rng.integers(4)))]

    opening, *events, question = re.split(r"(?<=[.?]) ", instruction)
    number = re.findall(r"\d+", opening)[0]
    phrases = [" ".join([*some(), number, *some()])]
    phrases += [" ".join([*some(), event.rstrip("."), *some()]) for event in events]
    return " ".join([f"{sentence}." for sentence in phrases] + [" ".join(some()) + question[-1]])


def train(
    model: PreTrainedModel,
    task: Task,
    batches: Iterable[Step],
    steps: int,
    rate: float = LEARNING_RATE,
    watch: Callable[[int, list[float]], None] | None = None,
) -> None:
    """Train on the sum of the mean losses of a step's expressions and stories.

    They are separate batches, so that short texts need little padding.

    Parameters
    ----------
    batches : iterable of Step
        Of which ``steps`` are taken.
    rate : float
        The highest of the schedule: linear warm-up, cosine decay.
    watch : callable, optional
        Is told the number of each step that was taken, from 1, and its losses.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=0.01)
    schedule = one_cycle(optimizer, rate, steps, WARM_UP)
    for step, rows in zip(range(1, steps + 1), batches, strict=False):
        model.train()
        losses = [model(**task.training(some)).loss for some in rows]
        sum(losses).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if watch is not None:
            watch(step, [loss.item() for loss in losses])


def main() -> None:
    """Train the model, save it, and print its scores."""
    given = arguments("pretrain the embedded decoder", steps=1400, seed=PRETRAINING_SEED)
    cfg = compose(OVERRIDES)
    tokenizer = make_tokenizer(given.seed)
    model = make_model(tokenizer)
    task = build(cfg, tokenizer, model.config)
    print(f"{sum(p.numel() for p in model.parameters())} weights, {len(tokenizer)} pieces")
    start = time.process_time()

    def tell(step: int, losses: list[float]) -> None:
        if step % 100 == 0 or step == given.steps:
            expressions, stories = losses
            seconds = time.process_time() - start
            print(
                f"step {step} expressions {expressions:.3f} stories {stories:.3f} {seconds:.0f} s",
                flush=True,
            )

    train(model, task, stream(given.seed, given.steps), given.steps, watch=tell)
    save(model, tokenizer, given.out)

    # Evaluate on providers beyond those of the stream, and on the federated splits.
    held_out = range(PRETRAINING_PROVIDERS, PRETRAINING_PROVIDERS + 240)
    known = make_problems(given.seed, POOLS["pretraining"], held_out, range(1))
    splits = {"pretrained kinds": known}
    federated = load_data(cfg.data, seed=0)
    splits |= {name: federated[name].to_list() for name in ("test", "unseen")}
    for name, rows in splits.items():
        print(name, task.score(task.predict(model, rows), rows))


if __name__ == "__main__":
    main()
