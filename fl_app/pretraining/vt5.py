"""Train the embedded VT5: ``python -m fl_app.pretraining.vt5 --out DIR``.

This trains a tokenizer and a tiny VT5 on a stream of DocVQA-mini documents of pretraining
providers, each seen once. It is deterministic (one thread, one seed) and takes some minutes of one
CPU core.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.models.t5.modeling_t5 import T5LayerCrossAttention

from fl_app.config import compose
from fl_app.data import load as load_data
from fl_app.data.invoices.load import (
    PRETRAINING_PROVIDERS,
    PRETRAINING_SEED,
    make_document,
    make_documents,
)
from fl_app.data.invoices.provider import POOLS, QUESTIONS, make_provider
from fl_app.data.invoices.vocabulary import FIELDS
from fl_app.models.vt5 import VT5Config, VT5ForConditionalGeneration
from fl_app.pretraining.common import SPECIAL, arguments, finished, one_cycle, save
from fl_app.tasks.anls import score
from fl_app.tasks.documents import IGNORED, Collator, per_token, predict

VOCABULARY = 1000
BATCH_DOCUMENTS = 16
MAX_LENGTH = 320
MAX_ANSWER_LENGTH = 24
LEARNING_RATE = 3e-3
WARM_UP = 0.05  # share of the steps
TAG_WEIGHT = 1.0
# Letters that are pieces in any case, so that no name or label has an unknown letter.
LETTERS = "abcdefghijklmnopqrstuvwxyzàáâäåæçèéêëìíîïñòóôöøùúûüąćęłńśźż°$€£"


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train a byte-pair encoding of lower-cased words, with at most two digits in a piece."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Split(Regex(r"▁?\d{1,2}|▁?[^\w\s▁]"), behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=list(LETTERS),
        show_progress=False,
    )
    # The tokenizer also learns the spelling of the federated languages, as that of a large model
    # would know it; the model never sees them. This makes pages of clients a sixth shorter.
    rows = make_documents(seed, POOLS["pretraining"], range(1000), range(1))
    rows += make_documents(seed, POOLS["federated"], range(600), range(1))
    questions = [question for options in QUESTIONS.values() for question in options]
    texts = [" ".join(row["words"]) for row in rows]
    tokenizer.train_from_iterator([*texts, *questions * 20], trainer)
    return finished(tokenizer)


def make_model(vocabulary: int) -> VT5ForConditionalGeneration:
    """Return the model, with weights from torch's global generator."""
    config = VT5Config(
        vocab_size=vocabulary,
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=3,
        num_decoder_layers=1,
        num_heads=4,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        spatial="fourier",
        prompt="decoder",
    )
    model = VT5ForConditionalGeneration(config)
    # Start with a decoder that copies the words it attends to: answers are copies. Learning this
    # from a random start takes most of the training.
    for module in model.decoder.modules():
        if isinstance(module, T5LayerCrossAttention):
            values, out = module.EncDecAttention.v.weight, module.EncDecAttention.o.weight
            nn.init.orthogonal_(values)
            out.data.copy_(values.T)
    return model


def stream(seed: int, steps: int) -> Iterator[list[dict[str, Any]]]:
    """Yield batches of documents of random pretraining providers; no document is repeated."""
    pool = POOLS["pretraining"]
    rng = np.random.default_rng(seed)
    providers = [make_provider(seed, pool, number) for number in range(PRETRAINING_PROVIDERS)]
    index = 0
    for _ in range(steps):
        batch = []
        for number in rng.integers(PRETRAINING_PROVIDERS, size=BATCH_DOCUMENTS).tolist():
            batch.append(make_document(seed, pool, number, providers[number], index))
            index += 1
        yield batch


def tags_of(collator: Collator, rows: list[dict[str, Any]]) -> Tensor:
    """Return the field of each encoder token, [pages, tokens]; IGNORED on padding."""
    encoding = collator.encode_words([row["words"] for row in rows])
    return per_token(encoding, [row["tags"] for row in rows], IGNORED)


def scale(name: str, config: VT5Config) -> float:
    """Return the learning rate of a weight, relative to that of an ordinary matrix.

    AdamW moves every weight by about the learning rate, whatever its magnitude. In T5, embeddings
    have unit variance, queries include the attention's 1 / sqrt(d_kv), and position biases are
    added to attention scores without scaling.
    """
    if name == "shared.weight":
        return config.d_model**0.5
    if name.endswith(".q.weight"):
        return config.d_kv**-0.5
    if "relative_attention_bias" in name:
        return 20.0
    return 1.0


def train(model: VT5ForConditionalGeneration, collator: Collator, seed: int, steps: int) -> None:
    """Train on answers and on an auxiliary task: naming the field of every word.

    The head of the auxiliary task is discarded.
    """
    tagger = nn.Linear(model.config.d_model, len(FIELDS) + 1)
    parameters = [*model.parameters(), *tagger.parameters()]
    rates = [LEARNING_RATE * scale(name, model.config) for name, _ in model.named_parameters()]
    groups = [{"params": [p]} for p in parameters]
    rates += [LEARNING_RATE] * (len(groups) - len(rates))
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    schedule = one_cycle(optimizer, rates, steps, WARM_UP)
    model.train()
    start = time.process_time()
    for step, rows in enumerate(stream(seed, steps), start=1):
        batch = collator.training(rows)
        page = {key: batch.pop(key) for key in ("input_ids", "attention_mask", "bbox")}
        states = model.encode(**page)
        answer = model(
            attention_mask=page["attention_mask"], encoder_outputs=(states,), **batch
        ).loss
        tag = nn.functional.cross_entropy(
            tagger(states).flatten(0, 1), tags_of(collator, rows).flatten(), ignore_index=IGNORED
        )
        (answer + TAG_WEIGHT * tag).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps:
            seconds = time.process_time() - start
            print(f"step {step} answer {answer:.3f} tag {tag:.3f} {seconds:.0f} s", flush=True)


def evaluate(
    model: VT5ForConditionalGeneration, collator: Collator, rows: list[dict[str, Any]]
) -> dict[str, float]:
    """Return ANLS and accuracy of greedy answers."""
    predictions = predict(model, collator.tokenizer, collator, rows, MAX_ANSWER_LENGTH)
    return score(predictions, [answers for row in rows for answers in row["answers"]])


def main() -> None:
    """Train the model, save it, and print its scores."""
    given = arguments("pretrain the embedded VT5", steps=2000, seed=PRETRAINING_SEED)
    tokenizer = make_tokenizer(given.seed)
    model = make_model(len(tokenizer))
    collator = Collator(tokenizer, model.config, MAX_LENGTH)
    print(f"{sum(p.numel() for p in model.parameters())} weights, {len(tokenizer)} pieces")
    train(model, collator, given.seed, given.steps)
    save(model, tokenizer, given.out)

    # Evaluate on providers beyond those of the stream, and on the federated test set.
    held_out = range(PRETRAINING_PROVIDERS, PRETRAINING_PROVIDERS + 80)
    in_domain = make_documents(given.seed, POOLS["pretraining"], held_out, range(1))
    federated = load_data(compose().data, seed=0)
    print("in-domain", evaluate(model, collator, in_domain))
    print("zero-shot", evaluate(model, collator, federated["test"].to_list()))


if __name__ == "__main__":
    main()
