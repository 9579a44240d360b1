"""Step sizes by default: those of adapter, task and kind of model, and no options themselves."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fl_app.config import CONF_DIR, ConfigError, compose

OWN = "model=huggingface model.path=/mine data=table"
DECODER, CLASSIFIER = f"{OWN} task=causal_lm", f"{OWN} task=sequence_classification"


@pytest.mark.parametrize(
    ("words", "lr"),
    [
        ("", 7e-3),
        ("adapter=full", 7e-3),
        ("optimizer=shampoo", 7e-3),
        ("model=vt5-base-random", 7e-3),
        ("model=llama-tiny task=word_problems data=word_problems adapter=lora_sb", 7e-3),
        ("experiment=thin", 1e-2),
        ("experiment=fed_sb", 1e-2),
        ("experiment=fedavg_full", 1e-3),
        ("experiment=shampoo_full", 4e-3),
        ("experiment=fedavg_full optimizer=shampoo", 1e-3),
        (DECODER, 2e-4),
        (f"{DECODER} adapter=full", 1e-5),
        (f"{DECODER} adapter=lora_sb strategy=fed_sb", 1e-4),
        (f"{DECODER} optimizer=shampoo", 2e-4),
        (CLASSIFIER, 2e-4),
        (f"{CLASSIFIER} adapter=full", 2e-5),
        (f"{OWN} task=seq2seq adapter=full", 1e-4),
        ("model=vt5-base adapter=full", 2e-4),
        (f"experiment=thin {DECODER}", 2e-4),  # tuned for the embedded model
        (f"experiment=fedavg_full {CLASSIFIER}", 2e-5),
        (f"{DECODER} optimizer.lr=3e-4", 3e-4),
    ],
)
def test_the_step_size_suits_the_kind_of_model(words: str, lr: float) -> None:
    assert compose(words).optimizer.lr == lr


def test_the_first_step_of_fed_sb_too() -> None:
    words = "adapter=lora_sb strategy=fed_sb"
    assert compose(words).adapter.eta == 1e-3
    assert compose(f"{DECODER} {words}").adapter.eta == 7.5e-7


def test_recipes_are_no_options() -> None:
    cfg = compose(f"{DECODER} adapter=full")
    assert not any("recipe" in cfg[group] for group in ("model", "adapter", "task"))
    for word in ("model.recipe.lr=1", "+adapter.recipe.pretrained.lr=1", "~task.recipe"):
        with pytest.raises(ConfigError, match=r"set optimizer\.lr itself"):
            compose(f"{DECODER} {word}")


def raw(path: Path) -> dict:
    """Return a file of conf/ with those that it is based on."""
    found = OmegaConf.load(path)
    based = [raw(path.with_name(f"{name}.yaml")) for name in found.pop("defaults", [])]
    return OmegaConf.to_container(OmegaConf.merge(*based, found))


@pytest.mark.parametrize("group", ["model", "adapter", "task"])
def test_every_file_has_its_recipe(group: str) -> None:
    for path in (CONF_DIR / group).glob("*.yaml"):
        recipe = raw(path)["recipe"]
        if group == "model":
            assert recipe in ("${adapter.recipe.embedded}", "${adapter.recipe.pretrained}")
            own = str(raw(path)["path"]).startswith("embedded:") or path.stem.endswith("-random")
            assert recipe.endswith("embedded}") == own, path
        elif group == "adapter":
            methods = recipe.pop("methods", {})  # of PEFT, by name
            assert {*recipe} == {"embedded", "pretrained"}
            assert all("lr" in one for one in (*recipe.values(), *methods.values()))
        else:
            assert 1e-6 < recipe["lr"] < 1e-3
