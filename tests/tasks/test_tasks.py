"""Laws of the tasks: what batches hold, batched prediction, scores, and that training learns."""

import copy
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Features, Json, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app import data, tasks
from fl_app.adapters import lora
from fl_app.config import ConfigError, compose
from fl_app.data.invoices.load import make_documents
from fl_app.data.invoices.provider import POOLS
from fl_app.data.padding import IGNORED
from fl_app.faults import FaultError
from fl_app.models import load_vt5
from fl_app.preflight import check, check_values
from fl_app.tasks.anls import score
from fl_app.tasks.documents import predict
from fl_app.tasks.template import Template
from fl_app.training.loop import train
from tests import architectures
from tests.rounding import DOUBLES, apart

CAUSAL = "task=causal_lm \"task.prompt='Question: {instruction} Answer:'\""
WIDE = dict.fromkeys(architectures.KINDS, 2.0) | {"t5": 8.0}  # spreads: predictions differ
LIMITS = "model.max_length={} model.max_answer_length={}"
ROWS = [
    {"instruction": "what is 2 and 3?", "output": "5"},
    {"instruction": "say something long, with commas", "output": "so be it, then"},
    {"instruction": "?", "output": "no"},
]
WORDS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=30),
    st.sampled_from(architectures.SPECIAL),  # which a row may quote
)
DECODER_TOKENIZERS = {
    "start token": lambda: architectures.tokenizer("<s> $A"),
    "no start token": lambda: architectures.tokenizer("$A", start=False),
    "start and end token": lambda: architectures.tokenizer("<s> $A </s>"),
    "no padding token": lambda: architectures.tokenizer("<s> $A", pad=False),
}


def _causal(tokenizer=None, limits: tuple[int, int] = (200, 40), overrides: str = "") -> Any:
    cfg = compose(f"{CAUSAL} {LIMITS.format(*limits)} {overrides}")
    return tasks.build(
        cfg, tokenizer or architectures.tokenizer("<s> $A"), architectures.config("llama")
    )


def _seq2seq(limits: tuple[int, int] = (200, 40), template: str = "$A </s>") -> Any:
    cfg = compose(f"task=seq2seq {LIMITS.format(*limits)}")
    return tasks.build(
        cfg, architectures.tokenizer(template, start=False), architectures.config("t5")
    )


def _nli(labels: str = "[entailment,neutral,contradiction]", texts: str = "") -> Any:
    cfg = compose(f"task=sequence_classification task.labels={labels} {texts}")
    return tasks.build(cfg, architectures.tokenizer("<s> $A"), architectures.config("bert"))


# ---- batches --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DECODER_TOKENIZERS)
@settings(max_examples=25)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
def test_the_loss_of_a_decoder_is_on_the_response_and_its_end_alone(
    kind: str, pairs: list[tuple[str, str]]
) -> None:
    tokenizer = DECODER_TOKENIZERS[kind]()
    rows = [{"instruction": a, "output": b} for a, b in pairs]
    batch = _causal(tokenizer, (500, 500)).training(rows)
    for ids, mask, labels, row in zip(*batch.values(), rows, strict=True):
        length = int(mask.sum())
        assert mask.tolist() == [1] * length + [0] * (len(mask) - length)
        assert (labels[length:] == IGNORED).all()
        answered = labels != IGNORED
        first = int(answered.nonzero()[0])
        assert answered[first:length].all()
        assert torch.equal(ids[first:length], labels[first:length])
        assert ids[length - 1] == architectures.END
        assert tokenizer.decode(ids[first : length - 1]) == f" {row['output']}"
        start = 0 if kind == "no start token" else 1
        assert ids[:start].tolist() == [architectures.START][:start]
        assert tokenizer.decode(ids[start:first]) == f"Question: {row['instruction']} Answer:"


def test_prompts_with_completions_are_read_as_they_are_written(tmp_path: Path) -> None:
    """The published format, from a file: nothing stands around the texts."""
    rows = [{"prompt": "2 + 2 =", "completion": " 4"}, {"prompt": "3 + 4 =", "completion": " 7"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    words = f"task=prompt_completion data=table data.train.path={path} data.test.path={path}"
    cfg = compose(f"model=llama-tiny {words} target.metric=accuracy {LIMITS.format(200, 40)}")
    check_values(cfg)
    read = data.load(cfg.data, 0)["train"]
    task = tasks.build(cfg, architectures.tokenizer("<s> $A"), architectures.config("llama"))
    task.check(read)
    batch = task.training(list(read))
    for row, ids, labels in zip(rows, batch["input_ids"], batch["labels"], strict=True):
        whole = ids[batch["attention_mask"][0].bool()]
        assert task.tokenizer.decode(whole) == f"<s>{row['prompt']}{row['completion']}</s>"
        assert task.tokenizer.decode(labels[labels != IGNORED]) == f"{row['completion']}</s>"
    assert task.score(["4", "8"], read)["accuracy"] == 0.5


def test_labels_of_a_decoder_become_its_loss() -> None:
    """What transformers makes of the labels is the likelihood of response and end, written out."""
    task, model = _causal(), architectures.model("llama").double()
    batch = task.training(ROWS)
    with torch.inference_mode():
        loss = model(**batch).loss
        alone = []
        for row in ROWS:
            one = task.training([row])
            log_p = model(input_ids=one["input_ids"]).logits[0].log_softmax(-1)
            for position, label in enumerate(one["labels"][0].tolist()):
                if label != IGNORED:
                    alone.append(-log_p[position - 1, label])
    assert apart(loss, torch.stack(alone).mean()) < DOUBLES


def test_padding_changes_no_loss() -> None:
    for task, name in ((_causal(), "llama"), (_seq2seq(), "t5")):
        model = architectures.model(name).double()
        with torch.inference_mode():
            together = float(model(**task.training(ROWS)).loss)
            parts = [task.training([row]) for row in ROWS]
            weights = [int((part["labels"] != IGNORED).sum()) for part in parts]
            losses = [float(model(**part).loss) for part in parts]
        mean = sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)
        assert apart(together, mean) < DOUBLES


@settings(max_examples=25)
@given(st.integers(2, 40), st.integers(1, 20))
def test_a_decoders_limits_hold_in_training_and_in_prompts(longest: int, answer: int) -> None:
    task = _causal()
    task.max_length, task.max_answer_length = longest, answer
    batch, prompts = task.training(ROWS), task.prompts(ROWS)
    assert batch["input_ids"].shape[1] <= longest + answer
    assert prompts["input_ids"].shape[1] <= longest
    for labels in batch["labels"]:
        assert 1 <= int((labels != IGNORED).sum()) <= answer
    for ids, mask, row in zip(*prompts.values(), ROWS, strict=True):
        kept = ids[mask.bool()]
        whole = f"Question: {row['instruction']} Answer:"
        assert kept[0] == architectures.START
        assert task.tokenizer.decode(kept[1:]) == whole[-(longest - 1) :]


@settings(max_examples=25)
@given(
    st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4),
    st.sampled_from(["$A </s>", "$A"]),
    st.integers(2, 200),
)
def test_an_encoder_decoder_reads_the_prompt_and_writes_the_response(
    pairs: list[tuple[str, str]], template: str, answer: int
) -> None:
    task = _seq2seq((500, 40), template)
    task.max_answer_length = answer
    rows = [{"instruction": a, "output": b} for a, b in pairs]
    batch = task.training(rows)
    assert (batch["labels"] != IGNORED).any(0).all()  # no column that at_labels could leave out
    for ids, mask, labels, row in zip(*batch.values(), rows, strict=True):
        read = task.tokenizer.decode(ids[mask.bool()], skip_special_tokens=True)
        assert read == row["instruction"]
        assert (ids[~mask.bool()] == architectures.PAD).all()
        written = labels[labels != IGNORED]
        assert len(written) <= answer
        assert (labels[len(written) :] == IGNORED).all()
        whole = len(row["output"].encode()) + 1
        if whole <= answer:
            assert written[-1] == architectures.END
            assert task.tokenizer.decode(written[:-1]) == row["output"]
        else:
            assert len(written) == answer


def test_a_classifier_reads_both_texts() -> None:
    task = _nli()
    rows = [
        {"premise": "a man sleeps", "hypothesis": "he is awake now", "label": "contradiction"},
        {"premise": "a", "hypothesis": "b", "label": "neutral"},
    ]
    batch = task.training(rows)
    assert batch["labels"].tolist() == [2, 1]
    for ids, mask, row in zip(batch["input_ids"], batch["attention_mask"], rows, strict=True):
        texts = task.tokens.tokenizer.decode(ids[mask.bool()]).split("</s>")
        assert texts == [f"<s>{row['premise']}", row["hypothesis"], ""]
    one_text = _nli(texts="task.texts=[premise]").inputs(rows)
    assert task.tokens.tokenizer.decode(one_text["input_ids"][0]) == "<s>a man sleeps"


# task.labels, task.label_is, labels of rows, and the outputs that they are taught as.
MEANT = [
    ("[entailment,neutral,contradiction]", "name", ["neutral"], [1]),
    ("[entailment,neutral,contradiction]", "index", [2, 0, "neutral", "1"], [2, 0, 1, 1]),
    ("['1','2','3']", "name", [1, "1", 3, "2"], [0, 0, 2, 1]),
    ("['1','2','3']", "name", ["01", "1.0", 0, True], None),
    ("['true','false','?']", "name", ["true", "?"], [0, 2]),
    ("['true','false','?']", "index", [True, False], None),
    ("['true','false','?']", "name", [True, False], None),
    ("['True','False','?']", "name", [True, 1, "true"], None),
    ("['0','1','2']", "name", [1.0, float("nan"), None], None),
    ("[entailment,neutral,contradiction]", "name", [0, 1, True, -1, "other", None], None),
    ("[entailment,neutral,contradiction]", "index", [-1, 3, True, 1.0, None, "01"], None),
]


@pytest.mark.parametrize(("labels", "label_is", "values", "outputs"), MEANT)
def test_a_label_is_its_name_and_a_position_only_where_that_is_said(
    labels: str, label_is: str, values: list[Any], outputs: list[int] | None
) -> None:
    task = _nli(f'"{labels}"', f"task.label_is={label_is}")
    rows = [{"premise": "a", "hypothesis": "b", "label": value} for value in values]
    for row, output in zip(rows, outputs or [], strict=outputs is not None):
        task.check(Dataset.from_list([row]))
        assert task.training([row])["labels"].tolist() == [output]
        assert task.score([task.labels.outputs[output]], [row])["accuracy"] == 1
    for row in rows if outputs is None else []:
        with pytest.raises(ValueError, match=r"1 of 1 rows have|holds"):
            task.check(Dataset.from_list([row]))
        for use in (task.training, lambda rows: task.score(["x"], rows)):
            with pytest.raises(ValueError, match=r"task\.labels are"):
                use([row])


def test_a_number_that_may_be_a_position_is_said_to_be_one() -> None:
    row = {"premise": "a", "hypothesis": "b", "label": 1}
    with pytest.raises(ValueError, match=r"set task\.label_is=index"):
        _nli().training([row])
    with pytest.raises(ConfigError, match=r"'1', '2'|has 1, 2.*task\.label_is=name"):
        check(
            compose(
                "data=snli task=sequence_classification \"task.labels=['1','2']\" "
                "task.label_is=index"
            )
        )


# ---- predictions ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", architectures.DECODERS)
@pytest.mark.parametrize("kind", ["start token", "no padding token"])
def test_a_decoder_continues_a_batch_as_one_by_one(name: str, kind: str) -> None:
    model = architectures.model(name, spread=WIDE[name])
    if name != "gemma2":  # its attention is in float32, where float64's mask is infinite
        model.double()  # no tie is left to rounding
    task = _causal(DECODER_TOKENIZERS[kind](), (60, 8))
    together = task.predict(model, ROWS)
    alone = [task.predict(model, [row])[0] for row in ROWS]
    assert together == alone
    assert len(set(together)) == len(ROWS)  # they do not all say the same


def test_an_encoder_decoder_answers_a_batch_as_one_by_one() -> None:
    model, task = architectures.model("t5", spread=WIDE["t5"]).double(), _seq2seq((60, 8))
    together = task.predict(model, ROWS)
    assert together == [task.predict(model, [row])[0] for row in ROWS]
    assert len(set(together)) == len(ROWS)


def test_a_classifier_judges_a_batch_as_one_by_one() -> None:
    model, task = architectures.model("bert", spread=WIDE["bert"]).double(), _nli()
    rows = [
        {"premise": "x" * n, "hypothesis": chr(97 + n), "label": "neutral"} for n in range(1, 20)
    ]
    together = task.predict(model, rows)
    assert together == [task.predict(model, [row])[0] for row in rows]
    assert len(set(together)) > 1


def test_a_model_with_lora_is_a_model() -> None:
    """PEFT's wrapper predicts as what it wraps, as LoRA starts as nothing."""
    nli = [{"premise": "x" * n, "hypothesis": chr(97 + n), "label": "neutral"} for n in range(1, 6)]
    for name, task, rows in (
        ("llama", _causal(limits=(60, 8)), ROWS),
        ("t5", _seq2seq((60, 8)), ROWS),
        ("bert", _nli(), nli),
    ):
        model = architectures.model(name, spread=WIDE[name])
        plain = task.predict(model, rows)
        wrapped = lora.attach(model, compose().adapter, seed=0)
        assert task.predict(wrapped, rows) == plain
        assert wrapped(**task.training(rows)).loss.requires_grad


# Values of generation_config.json that would change, break or stop greedy answers.
GENERATION: dict[str, Any] = {
    "max_length": 2, "min_length": 30, "min_new_tokens": 30, "max_new_tokens": 1,
    "early_stopping": True, "max_time": 1e-9, "stop_strings": ["a"], "do_sample": True,
    "num_beams": 3, "use_cache": False, "cache_implementation": "static", "temperature": 9.0,
    "top_k": 3, "top_p": 0.1, "min_p": 0.5, "typical_p": 0.2, "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1, "repetition_penalty": 3.0, "encoder_repetition_penalty": 3.0,
    "length_penalty": 9.0, "no_repeat_ngram_size": 1,
    "bad_words_ids": [[k] for k in range(100, 200)],
    "forced_eos_token_id": 7, "remove_invalid_values": True, "renormalize_logits": True,
    "exponential_decay_length_penalty": [1, 9.0], "suppress_tokens": [*range(50, 150)],
    "begin_suppress_tokens": [*range(4, 200)], "sequence_bias": [[[99], 50.0]],
    "token_healing": True, "guidance_scale": 3.0, "num_return_sequences": 2,
    "watermarking_config": {"greenlist_ratio": 0.5, "bias": 9.0}, "output_scores": True,
    "return_dict_in_generate": True, "pad_token_id": 99, "eos_token_id": [2, 100, 101],
    "encoder_no_repeat_ngram_size": 1, "prompt_lookup_num_tokens": 2, "penalty_alpha": 0.5,
    "dola_layers": "high", "diversity_penalty": 0.5, "num_beam_groups": 2, "constraints": [1],
    "force_words_ids": [[99]], "prefill_chunk_size": 2, "custom_generate": "a/b",
}  # fmt: skip


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_generation_is_greedy_whatever_the_checkpoint_says(name: str, adapted: bool) -> None:
    model = architectures.model(name, spread=WIDE[name])
    task = _causal(limits=(60, 8)) if name == "llama" else _seq2seq((60, 8))
    plain = task.predict(model, ROWS)
    own = model.generation_config
    asked = lora.attach(model, compose().adapter, seed=0) if adapted else model
    for key, value in GENERATION.items():
        said = model.generation_config = copy.deepcopy(own)
        setattr(said, key, value)
        assert task.predict(asked, ROWS) == plain, key
        assert model.generation_config is said


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_predicting_leaves_the_mode_and_the_generator(name: str) -> None:
    model = architectures.model(name, spread=WIDE[name])
    task = _causal(limits=(60, 3)) if name == "llama" else _seq2seq((60, 3))
    state = torch.random.get_rng_state()
    for training in (True, False):
        model.train(training)
        task.predict(model, Dataset.from_list(ROWS))
        assert model.training == training
    assert torch.equal(state, torch.random.get_rng_state())


# ---- scores -------------------------------------------------------------------------------------


def test_accuracy_can_be_a_mean_over_data_sets() -> None:
    rows = [{"instruction": "", "output": "a", "dataset": d} for d in "pppq"]
    said = ["a", "b", "A ", "a"]
    assert _causal().score(said, rows)["accuracy"] == 3 / 4
    over = _causal(overrides="task.average_over=dataset")
    assert over.columns == ("instruction", "output", "dataset")
    assert over.score(said, rows)["accuracy"] == pytest.approx((2 / 3 + 1) / 2)


def test_there_must_be_a_prediction_per_row() -> None:
    nli = [{"premise": "a", "hypothesis": "b", "label": "neutral"}]
    assert all(task.metrics[0] == "accuracy" for task in (_causal(), _seq2seq(), _nli()))
    assert _nli().score(["neutral"], nli)["accuracy"] == 1
    assert _nli().score(["entailment"], nli)["accuracy"] == 0
    for task, rows in ((_causal(), ROWS), (_seq2seq(), ROWS), (_nli(), nli)):
        assert task.examples(rows) == len(rows)
        for predictions in ([], ["a"] * (len(rows) + 1)):
            with pytest.raises(ValueError, match="cannot be scored"):
                task.score(predictions, rows)


def test_docvqa_is_a_task_like_the_others() -> None:
    cfg = compose()
    model, tokenizer = load_vt5(cfg.model, seed=0)
    task = tasks.build(cfg, tokenizer, model.config)
    rows = make_documents(1, POOLS["pretraining"], range(3000, 3002), range(1))
    collator = task.collator
    for name, value in collator.training(rows).items():
        assert torch.equal(task.training(rows)[name], value)
    said = predict(model, tokenizer, collator, rows, cfg.model.max_answer_length)
    assert task.predict(model, rows) == said
    assert task.score(said, rows) == score(said, [a for row in rows for a in row["answers"]])
    assert task.examples(rows) == 16
    assert {*task.columns} <= {*rows[0]}
    assert {*task.score(said, rows)} == {*task.metrics}


# ---- training ------------------------------------------------------------------------------------


def _loss(model, task, rows) -> float:
    with torch.inference_mode():
        return float(model(**task.training(rows)).loss)


@pytest.mark.parametrize("name", [*architectures.DECODERS, "t5", "bert"])
def test_some_steps_on_a_few_rows_lower_the_loss(name: str) -> None:
    rows, task = ROWS, _causal() if name in architectures.DECODERS else _seq2seq()
    if name == "bert":
        task = _nli()
        rows = [
            {"premise": text, "hypothesis": "so", "label": task.labels.names[k % 3]}
            for k, text in enumerate("abcabc")
        ]
    model = architectures.model(name)
    before = _loss(model, task, rows)
    cfg = compose("optimizer.lr=1e-2 optimizer.schedule=constant").optimizer
    with torch.random.fork_rng(devices=[]):
        _train(model, rows, task, cfg)
    assert _loss(model, task, rows) < before / 2


def _train(model, rows, task, cfg, epochs: int = 20, batch_size: int = 3) -> None:
    """``fl_app.training.train`` takes a task where it took a collator."""
    questions = [row | {"questions": [0]} for row in rows]  # what it counts examples by
    train(model, questions, task, cfg, epochs=epochs, batch_size=batch_size, seed=0)


def test_a_client_learns_its_part_of_a_file(tmp_path: Path) -> None:
    """From a file to a score: load, divide by label, check, train, predict."""
    sums = [
        {"text": f"{a}+{b}", "sum": str(a + b), "odd": (a + b) % 2}
        for a in range(4)
        for b in range(4)
    ]
    (tmp_path / "sums.json").write_text(json.dumps(sums))
    path = tmp_path / "sums.json"
    columns = "+data.{0}.columns.text=instruction +data.{0}.columns.sum=output"
    cfg = compose(
        f"data=table data.train.path={path} data.test.path={path} {columns.format('train')} "
        f"{columns.format('test')} data.partitioner.id=dirichlet +data.partitioner.column=odd "
        f"+data.partitioner.alpha=0.5 federation.clients=2 {CAUSAL} optimizer.lr=3e-3 "
        "target.metric=accuracy model=huggingface model.path=organisation/name"
    )
    check(cfg)
    task = tasks.build(cfg, architectures.tokenizer("<s> $A"), architectures.config("llama"))
    splits = data.load(cfg.data, cfg.seed)
    for split, rows in splits.items():
        tasks.check_columns(task, split, rows)
    parts = [
        data.client_split(splits["train"], cfg.data.partitioner, client, 2, 0)
        for client in range(2)
    ]
    assert sorted(row for part in parts for row in part["instruction"][:]) == sorted(
        row["text"] for row in sums
    )
    model, own = architectures.model("llama"), list(parts[0])
    with torch.random.fork_rng(devices=[]):
        _train(model, own, task, cfg.optimizer, epochs=250, batch_size=8)
    assert task.score(task.predict(model, own), own)["accuracy"] == 1.0
    elsewhere = task.score(task.predict(model, splits["test"]), splits["test"])
    assert 0.5 <= elsewhere["accuracy"] <= 1.0


def test_a_decoder_learns_answers_by_heart() -> None:
    model, task = architectures.model("llama"), _causal()
    cfg = compose("optimizer.lr=1e-2").optimizer
    assert task.score(task.predict(model, ROWS), ROWS)["accuracy"] == 0.0
    with torch.random.fork_rng(devices=[]):
        _train(model, ROWS, task, cfg, epochs=100)
    assert task.score(task.predict(model, ROWS), ROWS)["accuracy"] == 1.0


# ---- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["no field", "{", "{}", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{a:>3}", "}{a}"]
)
def test_a_template_has_plain_columns_only(text: str) -> None:
    with pytest.raises(ValueError, match=r"task\.prompt"):
        Template("task.prompt", text)


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_template_puts_values_in_as_they_are(a: str, b: str) -> None:
    template = Template("task.prompt", "{{{a}}} and {b}, {a}")
    assert template.columns == ("a", "b")
    assert template.fill({"a": a, "b": b, "c": 0}) == f"{{{a}}} and {b}, {a}"


def test_a_row_without_a_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'output' of task\.response is empty in a row"):
        _causal().training([{"instruction": "a", "output": None}])
    with pytest.raises(
        ValueError, match=r"'output' of task\.response is not in the data.*question"
    ):
        _causal().training([{"instruction": "a", "question": "b"}])


ALPACA = (
    "Below is an instruction that describes a task{}. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\nadd\n\n{}### Response:"
)


@pytest.mark.parametrize("nothing", [{}, {"input": None}, {"input": ""}, {"input": " \n"}])
def test_the_default_prompts_are_those_of_alpaca(nothing: dict[str, Any]) -> None:
    """Taori et al. 2023: one for rows with an input, one for rows without."""
    template = Template("task.prompt", compose("task=causal_lm").task.prompt)
    assert (template.columns, template.optional) == (("instruction",), ("input",))
    further = ", paired with an input that provides further context"
    whole = template.fill({"instruction": "add", "input": "1 and {2}"})
    assert whole == ALPACA.format(further, "### Input:\n1 and {2}\n\n")
    assert template.fill({"instruction": "add", **nothing}) == ALPACA.format("", "")
    seq2seq = Template("task.prompt", compose("task=seq2seq").task.prompt)
    assert seq2seq.fill({"instruction": "add", "input": "1"}) == "add\n\n1"
    assert seq2seq.fill({"instruction": "add", **nothing}) == "add"


@given(st.text(max_size=5) | st.integers() | st.none(), st.text(max_size=5))
def test_a_section_is_for_rows_that_have_its_column(a: Any, b: str) -> None:
    template = Template("task.prompt", "{b}{?a}[{a}{{{b}]{/a}.")
    there = a is not None and str(a).strip() != ""
    row = {"a": a, "b": b}
    assert template.fill(row) == (f"{b}[{a}{{{b}]." if there else f"{b}.")
    assert template.fill(row, str.upper) == template.fill(row)
    assert "".join(template.literals(row)) == ("[{]." if there else ".")


@pytest.mark.parametrize(
    "text", ["{?a}{a}", "{a}{/a}", "{?a}{?b}{a}{/b}{/a}", "{?a}{a}{/b}", "{?}{a}{/}", "{?a}x{/a}"]
)
def test_sections_that_are_not_closed_or_nested_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"task\.prompt"):
        Template("task.prompt", text)


NO_TEXTS = {
    "floats": 1.5, "booleans": True, "dates": date(2021, 3, 1), "lists": ["a"],
    "mappings": {"text": "a"}, "bytes": b"a",
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_TEXTS)
@pytest.mark.parametrize("column", ["instruction", "input", "output"])
def test_what_is_no_text_is_neither_taught_nor_scored(kind: str, column: str) -> None:
    row = {"instruction": "a", "input": "b", "output": "c"} | {column: NO_TEXTS[kind]}
    task, rows = tasks_of_alpaca(), Dataset.from_list([row])
    says = rf"'{column}' holds {kind}"
    for refuse in (
        lambda: tasks.check_rows(task, "test", rows),
        lambda: task.training(list(rows)),
        lambda: task.score(["c"], rows) if column == "output" else task.prompts(list(rows)),
    ):
        with pytest.raises(FaultError, match=says) as caught:
            refuse()
        assert kind in caught.value.said


def tasks_of_alpaca() -> Any:
    cfg = compose("task=causal_lm model.max_length=300 model.max_answer_length=9")
    return tasks.build(cfg, architectures.tokenizer("<s> $A"), architectures.config("llama"))


def test_strings_and_integers_are_texts() -> None:
    rows = [{"instruction": "007", "input": 5, "output": 12345678901}]
    task = tasks_of_alpaca()
    tasks.check_rows(task, "test", Dataset.from_list(rows))
    assert task.score(["12345678901"], rows)["accuracy"] == 1.0
    assert "\n5\n" in task.prompt.fill(rows[0])


def test_a_row_without_a_reference_is_refused_and_never_scored() -> None:
    rows = Dataset.from_dict({"instruction": ["a", "b", "c"], "output": ["x", None, "x"]})
    task = tasks_of_alpaca()
    with pytest.raises(
        FaultError, match=r"data\.test: 1 of 3 rows .* 'output': 2 .*\+data\.empty\.output="
    ) as caught:
        tasks.check_rows(task, "test", rows)
    assert caught.value.said.startswith("empty: rows without a value in the column output: 1")
    with pytest.raises(ValueError, match=r"'output' of task\.reference is empty"):
        task.score(["None"] * 3, rows)


def test_values_of_several_kinds_are_looked_at_one_by_one() -> None:
    features = Features({"instruction": Json(), "output": Value("string")})
    rows = {"instruction": ['"a"', "5", "0.5"], "output": ["x"] * 3}
    task = tasks_of_alpaca()
    with pytest.raises(FaultError, match="'instruction' holds floats"):
        tasks.check_rows(task, "train", Dataset.from_dict(rows, features=features))
    rows["instruction"][2] = "6"
    tasks.check_rows(task, "train", Dataset.from_dict(rows, features=features))


def test_missing_columns_are_named_with_those_there_are() -> None:
    rows = Dataset.from_list([{"instruction": "a", "answer": "b"}])
    with pytest.raises(ValueError, match=r"'test' lacks output.*instruction, answer.*data\.test"):
        tasks.check_columns(_causal(), "test", rows)
    options = {"output": "task.response"}
    with pytest.raises(ValueError, match=r"output \(task\.response\).*another in task\.response,"):
        tasks.check_columns(_causal(), "test", rows, options)
    tasks.check_columns(_causal(), "test", Dataset.from_list(ROWS))


def test_a_task_that_does_not_fit_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tells 3 classes apart.*names 2: yes, no"):
        _nli(labels="[yes,no]")
    with pytest.raises(ValueError, match=r"needs a VT5.*bert"):
        tasks.build(compose(), architectures.tokenizer("<s> $A"), architectures.config("bert"))
    endless = architectures.tokenizer("<s> $A")
    endless.eos_token = None
    with pytest.raises(ValueError, match="no end token"):
        _causal(endless)
    cfg = compose("task=sequence_classification")
    with pytest.raises(ValueError, match="no padding token"):
        tasks.build(cfg, architectures.tokenizer("$A", pad=False), architectures.config("bert"))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("task=causal_lm", "does not fit data.id=docvqa_mini"),
        ("task.id=qa", "causal_lm"),
        ("data=snli", "does not fit data.id=table"),
        ("data=snli task=gsm8k task.answer=words", "latex"),
        (
            "data=snli task=gsm8k target.metric=anls",
            "target.metric=anls should be one of ['accuracy', 'perplexity']",
        ),
        ("data=snli task=gsm8k task.prompt=solve", "task.prompt='solve'"),
        ("data=snli task=gsm8k task.reference=''", "the name of a column"),
        ("data=snli task=sequence_classification task.texts=[]", "one or two columns"),
        ("data=snli task=sequence_classification task.labels=[a,a]", "different names"),
    ],
)
def test_the_configuration_is_checked_beforehand(overrides: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check(compose(overrides))
    assert says in str(caught.value)
