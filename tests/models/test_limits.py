"""What is refused before training: a model of the wrong kind, too short, or without a pooler."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BartConfig,
    BartForConditionalGeneration,
    BertForMaskedLM,
    BertLMHeadModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    XLNetConfig,
    XLNetLMHeadModel,
)

from fl_app.adapters import full
from fl_app.build import open_session
from fl_app.config import ConfigError, compose
from fl_app.models.head import classification_head
from fl_app.models.limits import check_causal
from fl_app.preflight import check, federation
from tests import architectures
from tests.adapters.test_any_model import ROWS, overrides, turn
from tests.architectures import END, PAD, START, VOCABULARY
from tests.models.test_auto import CLASSES, TABLE, load

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 128, "bos_token_id": START, "eos_token_id": END, "pad_token_id": PAD,
}  # fmt: skip


def made(kind: str, **changes: Any) -> PreTrainedModel:
    """Return a small random model of an architecture that the other tests do not need."""
    if kind == "bart":
        return BartForConditionalGeneration(
            BartConfig(
                vocab_size=VOCABULARY, d_model=32, encoder_layers=1, decoder_layers=1,
                encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2,
                decoder_attention_heads=2, max_position_embeddings=64, decoder_start_token_id=END,
                bos_token_id=START, eos_token_id=END, pad_token_id=PAD, **changes,
            )
        )  # fmt: skip
    if kind == "xlnet":
        return XLNetLMHeadModel(XLNetConfig(vocab_size=VOCABULARY, d_model=32, n_layer=1, n_head=2))
    config, model = {
        "albert": (AlbertConfig, AlbertForMaskedLM),
        "bert": (lambda **sizes: architectures.config("bert", **sizes), BertForMaskedLM),
        "roberta": (RobertaConfig, RobertaForMaskedLM),
    }[kind]
    extra = {"embedding_size": 16} if kind == "albert" else {}
    return model(config(**SIZES, **extra, **changes))


def kept(folder: Path, model: PreTrainedModel) -> Path:
    """Save a model with a tokenizer."""
    model.save_pretrained(folder)
    architectures.tokenizer("<s> $A").save_pretrained(folder)
    return folder


# ---- which way it looks ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_encoder_is_no_decoder(kind: str, tmp_path: Path) -> None:
    kept(tmp_path, made(kind))
    run = f"model=huggingface model.path={tmp_path} model.max_length=64 {TABLE}"
    with pytest.raises(ConfigError, match=r"an encoder.*task=sequence_classification"):
        check(compose(run))
    decoder, _ = load(tmp_path, f"{LIMITS} task=causal_lm +model.config.is_decoder=true")
    check_causal(decoder, "here")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_sees_later_tokens_is_found_by_what_it_computes(dtype: torch.dtype) -> None:
    for kind in architectures.DECODERS:
        check_causal(architectures.model(kind).to(dtype), kind)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoders = [BertLMHeadModel(architectures.config("bert"))]
        encoders += [made("xlnet")] if dtype == torch.float32 else []
        for model in encoders:
            with pytest.raises(ValueError, match="an encoder"):
                check_causal(model.to(dtype), "here")


def test_a_session_checks_what_its_model_computes(tmp_path: Path) -> None:
    words = overrides(tmp_path, "causal_lm", "llama", "lora")
    kept(tmp_path / "model", made("xlnet"))
    with pytest.raises(ValueError, match="an encoder"):
        open_session(f"{words} seed=7")


def test_an_encoder_decoder_is_one_for_seq2seq_alone(tmp_path: Path) -> None:
    kept(tmp_path, made("bart"))
    with pytest.raises(ValueError, match=r"an encoder-decoder.*set task=seq2seq"):
        load(tmp_path, f"{LIMITS} task=causal_lm")
    with pytest.raises(ValueError, match=r"an encoder-decoder.*continued by a decoder"):
        load(tmp_path, f"{LIMITS} task=text")
    load(tmp_path, f"{LIMITS} task=seq2seq")
    kept(tmp_path, made("bart", is_encoder_decoder=False))
    with pytest.raises(ValueError, match=r"no encoder and decoder.*set task=causal_lm"):
        load(tmp_path, f"{LIMITS} task=seq2seq")


# ---- how much it takes ------------------------------------------------------------------------

LIMITS = "model.max_length=30 model.max_answer_length=30"


@pytest.mark.parametrize(
    ("kind", "task", "most", "says"),
    [
        ("opt", "causal_lm", 256, r"256 positions.*max_length=200 \+ model\.max_answer"),
        ("opt", "text", 256, r"256 positions.*model\.max_length=256"),
        ("bart", "seq2seq", 64, r"64 positions.*model\.max_length"),
        ("bert", "sequence_classification", 512, r"512 positions.*max_length=512"),
        ("roberta", "sequence_classification", 63, r"63 positions.*max_length=63"),
    ],
)
def test_texts_are_no_longer_than_the_positions(
    kind: str, task: str, most: int, says: str, tmp_path: Path
) -> None:
    if kind == "opt":
        model, answer = architectures.model("opt"), 56
    else:
        changes = {"max_position_embeddings": 64} if kind == "roberta" else {}
        model, answer = made(kind, **changes), 1
    kept(tmp_path, model)
    length = {"causal_lm": most - answer}.get(task, most)
    fits = f"task={task} model.max_length={length} model.max_answer_length={answer}"
    load(tmp_path, fits)
    more = fits.replace(f"max_length={length}", f"max_length={length + 1}")
    says = says.replace(f"max_length={length}", f"max_length={length + 1}")
    with pytest.raises(ValueError, match=says):
        load(tmp_path, more)
    if kind == "bart":
        with pytest.raises(ValueError, match="64 positions"):
            load(tmp_path, fits.replace("answer_length=1", "answer_length=65"))


def test_a_tokenizer_has_no_token_without_a_row(tmp_path: Path) -> None:
    architectures.model("llama", vocab_size=VOCABULARY - 1).save_pretrained(tmp_path)
    architectures.tokenizer("<s> $A").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"has {VOCABULARY} tokens.*vocabulary of 259"):
        load(tmp_path)
    larger = architectures.tokenizer("<s> $A")
    larger.add_special_tokens({"extra_special_tokens": ["<picture>"]})  # as in Gemma 3
    architectures.model("llama").save_pretrained(tmp_path)
    larger.save_pretrained(tmp_path)
    load(tmp_path)
    words = overrides(tmp_path, "causal_lm", "llama", "lora")
    larger.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"task\.prompt has the token '<picture>'"):
        open_session(f"{words} 'task.prompt=\"<picture>{{instruction}}\"'")


def test_a_gpu_that_is_not_there_is_said(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for start in (lambda words: check(compose(words)), open_session):
        with pytest.raises(ConfigError, match=r"no GPU.*federation\.device=auto or cpu"):
            start("federation.device=cuda")
    for asked in ("auto", "cpu"):
        assert federation.device(compose(f"federation.device={asked}")) == "cpu"


# ---- a head, and the pooler before it ---------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "albert"])
def test_a_pooler_that_a_masked_lm_lacks_is_drawn_and_trained(
    kind: str, tmp_path: Path, caplog
) -> None:
    path = tmp_path / "rows.jsonl"
    words = overrides(tmp_path, "sequence_classification", "bert", "lora")
    kept(tmp_path / "model", made(kind))
    assert path.exists()
    with caplog.at_level(logging.WARNING, "thinwire"):
        model, _ = load(tmp_path / "model", f"{CLASSES} model.max_length=64", seed=1)
    assert [r.getMessage() for r in caplog.records if "lacks" in r.getMessage()] == [
        f"model.path={tmp_path / 'model'} lacks {kind}.pooler: drawn from the seed, trained and "
        "sent with the head"
    ]
    again, _ = load(tmp_path / "model", f"{CLASSES} model.max_length=64", seed=1)
    other, _ = load(tmp_path / "model", f"{CLASSES} model.max_length=64", seed=2)
    pooler = f"{kind}.pooler"
    weights = [next(iter(one.get_submodule(pooler).parameters())) for one in (model, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert classification_head(model) == [pooler, "classifier"]
    cfg = compose("adapter=full adapter.freeze=[pooler]").adapter
    with pytest.raises(ValueError, match="the head"):
        full.attach(model, cfg, 0)
    here = open_session(f"{words} adapter.target_modules=[query,value]")
    tree, _ = turn(here)
    moved = {n for n in tree if "pooler" in n and (tree[n] != here.theta0[n]).any()}
    assert len(moved) == 2
    with pytest.raises(ValueError, match=r"cannot be quantized: set model\.quantization=none"):
        load(tmp_path / "model", f"{CLASSES} model.max_length=64 model.quantization=8bit")


def test_other_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    kept(tmp_path, architectures.model("bert"))
    weights = load_file(tmp_path / "model.safetensors")
    del weights["bert.embeddings.LayerNorm.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights.*bert\.embeddings\.LayerNorm\.bias\."):
        load(tmp_path, CLASSES)


NAMES = ("entailment", "neutral", "contradiction")
SENTENCES = "sequence_classification"


def test_the_outputs_of_a_trained_head_keep_their_names(tmp_path: Path) -> None:
    """A checkpoint's predictions are the same names, whatever the order of task.labels."""
    trained = architectures.model("bert")
    texts = architectures.tokenizer("<s> $A")(
        *([row[key] for row in ROWS[SENTENCES]] for key in ("premise", "hypothesis")),
        return_tensors="pt",
    )
    with torch.no_grad():  # no output is the likeliest for all
        trained.classifier.bias.sub_(trained(**texts).logits.mean(dim=0))
    trained.config.id2label = dict(enumerate(map(str.upper, (NAMES[2], NAMES[0], NAMES[1]))))
    kept(tmp_path / "model", trained)
    words = overrides(tmp_path, SENTENCES, "bert", "full")
    kept(tmp_path / "model", trained)
    here = open_session(words)
    rows = here.data["test"].to_list()
    with torch.no_grad():
        logits = trained(**here.task.inputs(rows)).logits
    said = [trained.config.id2label[k].lower() for k in logits.argmax(-1).tolist()]
    assert here.task.predict(here.model, rows) == said
    assert len({*said}) > 1
    taught = here.task.training([{**rows[0], "label": "contradiction"}])["labels"]
    assert taught.tolist() == [0]


@pytest.mark.parametrize(
    ("own", "wanted", "says"),
    [
        (NAMES, "[no,yes]", r"the head has 3 labels \(ent.*\), task\.labels has 2 \(no, yes\)"),
        (NAMES, "[a,b,c]", r"the head has 3 labels .*has 3 \(a, b, c\).*model\.head=random"),
        (None, "[no,yes]", r"the head has 3 labels \(LABEL_0, .*model\.head=random"),
        (None, "[a,b,c]", None),  # its outputs have no names: they are in this order
    ],
)
def test_a_head_of_other_labels_is_refused_or_drawn_anew(
    own: tuple[str, ...] | None, wanted: str, says: str | None, tmp_path: Path
) -> None:
    trained = architectures.model("bert")
    if own:
        trained.config.id2label = dict(enumerate(own))
    kept(tmp_path / "model", trained)
    words = f"{CLASSES} task.labels={wanted}"
    run = f"model=huggingface model.path={tmp_path / 'model'} {TABLE} {words}"
    if says is None:
        assert torch.equal(
            load(tmp_path / "model", words)[0].classifier.weight, trained.classifier.weight
        )
        return
    with pytest.raises(ConfigError, match=says):
        check(compose(run))
    architectures.model("bert").bert.save_pretrained(tmp_path / "base")
    architectures.tokenizer("<s> $A").save_pretrained(tmp_path / "base")
    base, _ = load(tmp_path / "base", words)
    drawn, _ = load(tmp_path / "model", f"{words} model.head=random")
    assert [*drawn.config.id2label.values()] == wanted[1:-1].split(",")
    assert torch.equal(drawn.classifier.weight, base.classifier.weight)
    assert torch.equal(drawn.bert.pooler.dense.weight, trained.bert.pooler.dense.weight)
    full.export(drawn, tmp_path / "out")
    assert "classifier.weight" in load_file(tmp_path / "out" / "model.safetensors")


def test_a_head_of_tokens_is_not_taken_for_one_of_texts(tmp_path: Path) -> None:
    model = architectures.model("bert")
    model.config.id2label = {0: "B", 1: "I", 2: "O"}
    kept(tmp_path, model)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("ForSequence", "ForToken"))
    with pytest.raises(ValueError, match=r"the head has 3 labels \(B, I, O\)"):
        load(tmp_path, CLASSES)
