"""What a checkpoint may be: its files, weights, config and head; and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fl_app import models
from fl_app.adapters import full
from fl_app.config import ConfigError, compose
from fl_app.files import installed
from fl_app.models.head import classification_head
from fl_app.models.sources import check_own_config
from fl_app.preflight import check, check_node
from tests import architectures
from tests.adapters.test_any_model import saved
from tests.rounding import DOUBLES, apart

CLASSES = "task=sequence_classification"


def load(folder: Path, overrides: str = "task=causal_lm", seed: int = 0):
    short = "model.max_length=64 model.max_answer_length=8"
    cfg = compose(f"model=huggingface model.path={folder} {short} {overrides}")
    return models.load(cfg.model, seed, cfg.task)


def state(model) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in model.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return {*one} == {*other} and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", [*architectures.DECODERS, "t5"])
def test_a_folder_is_loaded_as_it_is(kind: str, tmp_path: Path) -> None:
    task = "task=seq2seq" if kind == "t5" else "task=causal_lm"
    model, tokenizer = load(saved(tmp_path, kind), task)
    assert same(state(model), state(architectures.model(kind)))
    assert not model.training
    assert tokenizer("a")["input_ids"]


@pytest.mark.parametrize("kind", ["llama", "opt", "t5"])
def test_a_head_that_a_language_model_lacks_is_drawn_from_the_seed(
    kind: str, tmp_path: Path
) -> None:
    saved(tmp_path, kind)
    generator = torch.random.get_rng_state()
    one, again, other = (load(tmp_path, CLASSES, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert same(state(one), state(again))
    different = {n for n in state(one) if not torch.equal(state(one)[n], state(other)[n])}
    heads = tuple(f"{name}." for name in classification_head(one))
    assert different
    assert all(name.startswith(heads) for name in different)


def test_a_head_is_as_wide_as_the_labels(tmp_path: Path) -> None:
    saved(tmp_path, "opt")
    model, _ = load(tmp_path, f"{CLASSES} task.labels=[no,yes]")
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert model.score.weight.shape[0] == 2
    architectures.model("bert").save_pretrained(tmp_path)  # with a head of three
    with pytest.raises(ValueError, match="the head has 3 labels"):
        load(tmp_path, f"{CLASSES} task.labels=[no,yes]")


def test_a_drawn_head_is_the_same_above_every_base(tmp_path: Path) -> None:
    saved(tmp_path, "llama")
    plain, _ = load(tmp_path, CLASSES)
    for bits, dtype in (("none", "bfloat16"), ("4bit", "float32"), ("8bit", "bfloat16")):
        model, _ = load(tmp_path, f"{CLASSES} model.quantization={bits} model.dtype={dtype}")
        assert torch.equal(model.score.weight, plain.score.weight.to(getattr(torch, dtype)))


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("pad_token_id", [None, architectures.UNKNOWN])
def test_a_classifying_decoder_does_not_judge_by_padding(
    pad: bool, pad_token_id: int | None, tmp_path: Path
) -> None:
    """Whatever the tokenizer and the config know of it."""
    saved(tmp_path, "llama", pad=pad, pad_token_id=pad_token_id)
    model, tokenizer = load(tmp_path, CLASSES)
    model.double()
    assert model.get_input_embeddings().padding_idx == pad_token_id  # an end token can be learned
    texts = ["a", "some more words", "two words"]
    with torch.inference_mode():
        together = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        alone = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
    assert apart(together, torch.stack(alone)) < DOUBLES


def test_the_config_can_be_overridden_by_its_own_keys(tmp_path: Path) -> None:
    saved(tmp_path, "llama")
    model, _ = load(tmp_path, "task=causal_lm +model.config.attention_dropout=0.5")
    assert model.config.attention_dropout == 0.5
    for wrong, says in (
        ("+model.config.colour=1", "unknown model.config keys: colour; known: .*rms_norm_eps"),
        ("+model.config.id2label={}", "unknown model.config keys: id2label"),
        ("+model.config.rms_norm_eps=small", "model.config: .*rms_norm_eps"),
        ("+model.config.hidden_size=128", "other shapes"),
    ):
        with pytest.raises(ValueError, match=f"(?s){says}"):
            load(tmp_path, f"task=causal_lm {wrong}")


@pytest.mark.parametrize("kind", ["gemma2", "bert", "t5"])
def test_random_weights_are_those_of_the_seed(kind: str) -> None:
    task = {"bert": CLASSES, "t5": "task=seq2seq"}.get(kind, "task=causal_lm")
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 1024,
    }  # fmt: skip
    if kind == "t5":
        sizes = {"d_model": 32, "d_ff": 32, "num_layers": 1, "num_heads": 4, "vocab_size": 1024}
    changes = " ".join(f"+model.config.{key}={value}" for key, value in sizes.items())
    run = f"{task} model.tokenizer=embedded:vt5_tiny +model.config.model_type={kind} {changes}"
    one, again, other = (load(Path("random"), run, seed)[0] for seed in (1, 1, 2))
    assert one.config.model_type == kind
    assert same(state(one), state(again))
    assert not same(state(one), state(other))


def test_a_generation_config_that_transformers_refuses_is_not_used(tmp_path: Path) -> None:
    path = saved(tmp_path, "t5") / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_return_sequences": 2}))
    model, _ = load(tmp_path, "task=seq2seq")
    assert model.generation_config.num_return_sequences is None
    assert model.generation_config.decoder_start_token_id == architectures.PAD
    full.export(model, tmp_path / "export")


# ---- refused -------------------------------------------------------------------------------------


def test_weights_in_pickle_are_never_read(tmp_path: Path) -> None:
    saved(tmp_path, "llama")
    weights = tmp_path / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.path.*safetensors"):
        load(tmp_path)


def test_code_of_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    saved(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    bomb = tmp_path / "bomb-went-off"
    (tmp_path / "configuration_own.py").write_text(f"open({str(bomb)!r}, 'w')\n")
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"model\.path.*code"):
        check(compose(f"model=huggingface model.path={tmp_path} {TABLE}"))
    assert not bomb.exists()


HUB = {
    **dict.fromkeys(["llama-3.2-3b", "mistral-7b", "gemma-2-9b", "smollm2-135m"], "causal_lm"),
    **{"bert-base-cased": "sequence_classification", "flan-t5-base": "seq2seq"},
}
TABLE = "task=causal_lm data=table data.train.path=a/b data.test.path=a/b"


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    weights = saved(tmp_path, "llama") / "model.safetensors"
    kept = load_file(weights)
    del kept["model.layers.1.mlp.up_proj.weight"]
    save_file(kept, weights, metadata={"format": "pt"})
    for task in ("task=causal_lm", CLASSES):
        with pytest.raises(ValueError, match=r"lacks 1 weights.*layers\.1\.mlp\.up_proj"):
            load(tmp_path, task)


@pytest.mark.parametrize(
    ("kind", "overrides", "says"),
    [
        ("t5", "task=causal_lm", "task.id=causal_lm.*t5"),
        ("llama", "task=seq2seq", "task.id=seq2seq.*llama"),
        ("llama", "adapter=full model.quantization=4bit", "adapter=lora"),
        ("llama", "model.quantization=2bit", "model.quantization=2bit should be one of"),
        ("llama", "model.dtype=float16", "model.dtype=float16 should be one of"),
        ("llama", "+model.config.colour=1", "model.config keys: colour"),
        ("llama", "model=vt5-tiny", "needs a language model.*model=huggingface"),
        ("llama", "model.path=random", "model.tokenizer"),
        ("llama", f"model.path=random {(TOKENIZER := 'model.tokenizer=a/b')}", "model_type=None"),
        (
            "llama",
            f"model.path=random {TOKENIZER} +model.config.model_type=llama model.quantization=8bit",
            "model.quantization=8bit",
        ),
    ],
)
def test_what_does_not_fit_is_said_beforehand(
    kind: str, overrides: str, says: str, tmp_path: Path
) -> None:
    saved(tmp_path, kind)
    with pytest.raises(ConfigError, match=says):
        check(compose(f"model=huggingface model.path={tmp_path} {TABLE} {overrides}"))


def test_documents_want_a_vt5() -> None:
    with pytest.raises(ConfigError, match="docvqa needs a VT5"):
        check(compose("model=huggingface model.path=organisation/name"))


def test_a_checkpoint_that_is_quantized_already_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "plain", "llama")
    model, tokenizer = load(tmp_path / "plain", "task=causal_lm model.quantization=4bit")
    model.save_pretrained(tmp_path / "quantized")
    tokenizer.save_pretrained(tmp_path / "quantized")
    with pytest.raises(ValueError, match="quantized checkpoint"):
        load(tmp_path / "quantized")


@pytest.mark.parametrize(
    "name",
    ["llama-3.2-3b", "mistral-7b", "gemma-2-9b", "smollm2-135m", "bert-base-cased", "flan-t5-base"],
)
def test_a_hub_model_that_cannot_be_reached_is_one_clear_error(name: str) -> None:
    cfg = compose(f"model={name} task={HUB[name]}")
    with pytest.raises(FileNotFoundError, match=r"model\.path=.*hub id that can be reached"):
        models.load(cfg.model, 0, cfg.task)


def test_a_head_cannot_be_frozen(tmp_path: Path) -> None:
    model, _ = load(saved(tmp_path, "bert"), CLASSES)
    cfg = compose("adapter=full adapter.freeze=[classifier]").adapter
    with pytest.raises(ValueError, match="freezes classifier, the head"):
        full.attach(model, cfg, 0)


@pytest.mark.parametrize(
    "said",
    [
        {"_attn_implementation": "kernels-community/x"}, {"attn_implementation": "org/kernel@v1"},
        {"attn_implementation": {"text_config": "org/kernel"}},
        {"text_config": {"attn_implementation": "a/b"}},
        {"_attn_implementation_internal": "flash_attention_2"},
        {"experts_implementation": "a/b"},
    ],
)  # fmt: skip
def test_a_checkpoints_config_names_no_kernel_of_the_hub(tmp_path: Path, said: dict) -> None:
    folder = shutil.copytree(installed("fl_app/models/llama_tiny"), tmp_path / "model")
    found = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**found, **said}))
    with pytest.raises(ValueError, match="names code of its own"):
        check_own_config("path", str(folder))
    words = f"model=llama-tiny model.path={folder} model.sha256=null task=causal_lm"
    with pytest.raises(ConfigError, match="names code of its own"):
        check_node(compose(f"{words} data=word_problems"))
    (folder / "config.json").write_text(json.dumps({**found, "_attn_implementation": "sdpa"}))
    check_node(compose(f"{words} data=word_problems"))


def test_a_checkpoint_that_is_an_adapter_names_another_and_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(installed("fl_app/models/llama_tiny"), tmp_path / "model")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/model"}')
    with pytest.raises(ValueError, match="adapter"):
        check_own_config("path", str(folder))


@pytest.mark.parametrize("name", ["../../x", "/etc", "llama_tiny/../../..", ".", ""])
def test_an_embedded_model_is_one_of_this_project(name: str) -> None:
    with pytest.raises(ConfigError, match="should be one of embedded:"):
        check_node(compose(f"'model.path=embedded:{name}' model.sha256=null"))
