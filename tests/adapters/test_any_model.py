"""Any Hugging Face model, for every task: a session, a client's turn and scores, in process.

What cannot be downloaded is a tiny random model of the same architecture, saved as transformers
saves any, and a file with the columns of the data set.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft import PeftModel

from fl_app import models
from fl_app.adapters.lora_sb import adapter as lora_sb
from fl_app.adapters.lora_sb.factors import outer
from fl_app.adapters.lora_sb.start import SERVER_PUBLIC
from fl_app.build import open_session
from fl_app.config import compose
from fl_app.session import Session
from fl_app.training.loop import train
from fl_app.tree import digest
from tests import architectures
from tests.rounding import apart, through

LABELS = ("entailment", "neutral", "contradiction")
SUMS = [(a, b) for a in range(4) for b in range(2)]
TEXTS = [{"instruction": f"{a} and {b}?", "output": f"#### {a + b}"} for a, b in SUMS]
METAMATH = [{"query": row["instruction"], "response": row["output"]} for row in TEXTS]
GSM8K = [{"question": row["instruction"], "answer": row["output"]} for row in TEXTS]
MATH = [{**row, "output": rf"So \boxed{{{index}}}."} for index, row in enumerate(TEXTS)]
CHOICES = [
    {
        "instruction": f"is {a} less than {b}? answer1: yes, answer2: no",
        "output": f"the correct answer is answer{2 - (a < b)}",
        "answer": f"answer{2 - (a < b)}",
        "dataset": "less" if b else "least",
    }
    for a, b in SUMS
]
SENTENCES = [
    {"premise": f"{a} and {b}", "hypothesis": str(b), "label": LABELS[(a + b) % 3]} for a, b in SUMS
]
ROWS = {"causal_lm": TEXTS, "seq2seq": TEXTS, "sequence_classification": SENTENCES}
TEMPLATES = {"bert": "<s> $A", "t5": "$A </s>"}


def saved(folder: Path, kind: str, pad: bool = True, **changes: Any) -> Path:
    """A checkpoint as the hub has it, of the language model of a kind."""
    architectures.model(kind, **changes).save_pretrained(folder)
    template = TEMPLATES.get(kind, "<s> $A")
    architectures.tokenizer(template, pad=pad, start=kind != "t5").save_pretrained(folder)
    return folder


def file(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def started(here: Session) -> Session:
    """The session behind the set-up of its adapter."""
    setup, collate = here.setup, here.task.training
    if setup is not None and "step" not in here.patches:
        if setup.asked:
            step = setup.from_answers(
                [setup.answer(here.model, here.documents(k), collate, k) for k in setup.asked]
            )
        else:
            step = setup.from_public(here.model, here.data, collate)
        here.patch(step, "step")
    return here


def turn(here: Session, partition: int = 0) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """What a client returns, and what the server scores it with."""
    cfg = here.cfg
    here.adapter.set(here.model, here.theta0)
    done = train(
        here.model, here.documents(partition), here.task, cfg.optimizer,
        epochs=cfg.local_epochs, batch_size=cfg.batch_size, seed=0,
        gradient_accumulation=cfg.gradient_accumulation,
    )  # fmt: skip
    assert np.isfinite(done.loss)
    tree = here.adapter.get(here.model)
    return tree, here.evaluate(tree, here.data["test"].select(range(3)))


# ---- the published settings of Fed-SB -----------------------------------------------------------

PUBLISHED: dict[str, tuple[str, list[dict], list[dict]]] = {
    "fed_sb_mistral7b_gsm8k": ("mistral", METAMATH, GSM8K),
    "fed_sb_gemma2_9b_math": ("gemma2", METAMATH, MATH),
    "fed_sb_llama32_3b_commonsense": ("llama", CHOICES, CHOICES),
    "fed_sb_bert_snli": ("bert", SENTENCES, SENTENCES),
}
FEW = (
    "federation.clients=2 clients_per_round=2 local_epochs=1 batch_size=1 adapter.r=4 "
    "data.test.split=train data.test.name=null model.max_answer_length=8 adapter.init_samples=3 "
    "adapter.eta=1e-3"
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_setting_runs_on_a_small_model(name: str, tmp_path: Path) -> None:
    kind, rows, test_rows = PUBLISHED[name]
    path, folder = file(tmp_path / "train.jsonl", rows), saved(tmp_path / "model", kind)
    test = file(tmp_path / "test.jsonl", test_rows)
    paths = [f"data.train.path={path}", f"data.test.path={test}", "data.validation.path=null"]
    if compose(f"experiment={name}").adapter.init == SERVER_PUBLIC:
        paths += [f"data.public.path={path}", "data.public.split=train"]
    here = started(open_session(f"experiment={name} model.path={folder} {' '.join(paths)} {FEW}"))
    modules = 2 if kind == "bert" else 7
    head = 3 * (64 + 1) if kind == "bert" else 0
    assert sum(x.size for x in here.theta0.values()) == 2 * modules * 4 * 4 + head
    before = digest(outer(here.model))
    tree, scores = turn(here)
    assert digest(outer(here.model)) == before
    assert all(not np.array_equal(tree[n], here.theta0[n]) for n in tree if "lora_R" in n)
    assert "accuracy" in scores


def test_the_settings_of_snli_train_the_published_number_of_parameters() -> None:
    """100.6K; those of the language models are counted in benchmarks.published."""
    cfg = compose(
        "experiment=fed_sb_bert_snli model.path=random model.tokenizer=embedded:vt5_tiny "
        "+model.config.model_type=bert +model.config.vocab_size=28996"
    )
    with torch.device("meta"):
        base, _ = models.load(cfg.model, 0, cfg.task)
        model = lora_sb.attach(base, cfg.adapter, 0)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 100_611


# ---- every architecture, task and adapter -------------------------------------------------------

CASES = [
    *(("causal_lm", kind, "lora") for kind in architectures.DECODERS),
    *(("seq2seq", "t5", adapter) for adapter in ("lora", "lora_sb", "full")),
    ("causal_lm", "gemma2", "full"),
    *(("causal_lm", "opt", "lora_sb"), ("sequence_classification", "opt", "lora_sb")),
    *(("sequence_classification", kind, "full") for kind in ("bert", "llama", "t5")),
]
"""What is not here is in the other tests of this file."""


def overrides(folder: Path, task: str, kind: str, adapter: str, **changes: Any) -> str:
    """A run of a model that is made and saved here."""
    path = folder / "rows.jsonl"
    if not path.exists():
        file(path, ROWS[task])
        saved(folder / "model", kind)
    return (
        f"model=huggingface model.path={folder / 'model'} model.max_length=64 "
        f"model.max_answer_length=4 data=table data.train.path={path} data.test.path={path} "
        f"task={task} strategy=fedavg adapter={adapter} codec=fp32 federation.clients=2 "
        f"local_epochs=1 batch_size=2 {'adapter.init=random' if adapter == 'lora_sb' else ''} "
        + " ".join(f"{key}={value}" for key, value in changes.items())
    )


@pytest.mark.parametrize(("task", "kind", "adapter"), CASES)
def test_a_model_trains_and_is_scored(task: str, kind: str, adapter: str, tmp_path: Path) -> None:
    here = open_session(overrides(tmp_path, task, kind, adapter))
    tree, scores = turn(here)
    assert "accuracy" in scores
    moved = {name for name in tree if not np.array_equal(tree[name], here.theta0[name])}
    assert any("lora_" in name for name in moved) or adapter == "full"
    if task == "sequence_classification":
        head = {name for name in tree if name.endswith(HEADS[kind])}
        assert head
        assert head <= moved


HEADS = {
    "bert": ("classifier.weight", "classifier.modules_to_save.default.weight"),
    "llama": ("score.weight", "score.modules_to_save.default.weight"),
    "opt": ("score.weight", "score.modules_to_save.default.weight"),
    "t5": (
        "classification_head.out_proj.weight",
        "classification_head.modules_to_save.default.out_proj.weight",
    ),
}


@pytest.mark.parametrize(
    ("task", "adapter", "bits"),
    [
        ("causal_lm", "lora_sb", 4),
        ("causal_lm", "lora", 8),
        ("causal_lm", "tied", 4),
        ("sequence_classification", "lora", 4),
        ("sequence_classification", "lora_sb", 8),
    ],
)
def test_a_quantized_base_trains_also_after_scoring(
    task: str, adapter: str, bits: int, tmp_path: Path
) -> None:
    here = open_session(
        overrides(tmp_path, task, "llama", adapter) + f" model.quantization={bits}bit"
    )
    kind = {4: Linear4bit, 8: Linear8bitLt}[bits]
    in_bits = [name for name, module in here.model.named_modules() if isinstance(module, kind)]
    assert len(in_bits) == 2 * 7
    assert not any("lm_head" in name or "score" in name for name in in_bits)
    for _ in range(2):
        tree, scores = turn(here)
        assert "accuracy" in scores
        assert any(not np.array_equal(tree[name], here.theta0[name]) for name in tree)
    if bits == 4:
        state = next(m for m in here.model.modules() if isinstance(m, kind)).weight.quant_state
        assert (state.quant_type, state.nested, state.blocksize) == ("nf4", False, 64)


def test_a_start_is_the_same_whatever_the_base_is_held_in(tmp_path: Path) -> None:
    """LoRA's start is of the seed alone."""
    starts = {
        (bits, seed): digest(
            open_session(
                overrides(tmp_path, "causal_lm", "llama", "lora", seed=seed)
                + f" model.quantization={bits}"
            ).theta0
        )
        for bits, seed in (("none", 0), ("4bit", 0), ("8bit", 0), ("none", 1))
    }
    assert len({starts[bits, 0] for bits in ("none", "4bit", "8bit")}) == 1
    assert starts["none", 0] != starts["none", 1]


def test_a_base_in_bfloat16_trains_adapters_in_float32(tmp_path: Path) -> None:
    here = open_session(
        overrides(tmp_path, "causal_lm", "llama", "lora", **{"model.dtype": "bfloat16"})
    )
    assert {p.dtype for p in here.model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in here.model.parameters() if not p.requires_grad} == {torch.bfloat16}
    tree, _ = turn(here)
    assert any(not np.array_equal(tree[name], here.theta0[name]) for name in tree)


@pytest.mark.parametrize("adapter", ["lora", "lora_sb", "tied"])
@pytest.mark.parametrize("kind", ["bert", "llama", "t5"])
def test_an_export_brings_its_head(kind: str, adapter: str, tmp_path: Path) -> None:
    """Stock PEFT, over a base whose own head is another one, computes what was trained."""
    here = open_session(overrides(tmp_path, "sequence_classification", kind, adapter))
    turn(here)
    here.adapter.export(here.model, tmp_path / "adapter")
    other, _ = models.load(here.cfg.model, 99, here.cfg.task)
    batch = here.task.training(SENTENCES)
    with torch.inference_mode():
        expected = here.model(**batch).logits
        bound = through(here.model)
        assert apart(other(**batch).logits, expected) > 10 * bound
        loaded = PeftModel.from_pretrained(other, tmp_path / "adapter").eval()
        assert apart(loaded(**batch).logits, expected) < bound
    saved_config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert saved_config["task_type"] == "SEQ_CLS"
