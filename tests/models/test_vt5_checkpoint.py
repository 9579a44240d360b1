"""Real models by config, from folders in the hub's format (the hub itself is not reached here)."""

from pathlib import Path

import numpy as np
import pytest
from transformers import T5Config, T5ForConditionalGeneration

from fl_app import models
from fl_app.build import open_session
from fl_app.config import compose
from fl_app.training.loop import train
from tests import small


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock T5 of a few thousand weights, saved as transformers saves any T5."""
    folder = tmp_path_factory.mktemp("t5")
    _, tokenizer = models.load_vt5(compose("").model, 0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["t5-base", "vt5-base"])
def test_a_stock_t5_folder_trains_and_answers(checkpoint: Path, name: str) -> None:
    here = open_session(
        f"{small.DATA} model={name} model.path={checkpoint} model.visual_path=null "
        "model.max_answer_length=4"
    )
    assert here.model.config.prompt == "encoder"
    has_boxes = any("spatial" in n for n, _ in here.model.named_modules())
    assert has_boxes == (name == "vt5-base")
    rows = here.documents(0).to_list()[:2]
    train(here.model, rows, here.task, here.cfg.optimizer, epochs=1, batch_size=1, seed=0)
    trained = here.adapter.get(here.model)
    assert any(not np.array_equal(trained[k], here.theta0[k]) for k in trained)
    scores = here.evaluate(trained, here.data["test"].select(range(1)))
    assert set(scores) == {"anls", "accuracy"}


def test_what_a_checkpoint_lacks_is_drawn_from_the_seed(checkpoint: Path) -> None:
    cfg = compose(f"model=vt5-base model.path={checkpoint} model.visual_path=null").model

    def tables(seed: int):
        return models.load_vt5(cfg, seed)[0].spatial.x.weight.detach().numpy()

    assert np.array_equal(tables(1), tables(1))
    assert not np.array_equal(tables(1), tables(2))


@pytest.mark.parametrize("overrides", ["model.path=/no/such/folder", "model=t5-base"])
def test_a_model_that_cannot_be_had_is_one_clear_error(overrides: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.path"):
        models.load_vt5(compose(f"{overrides} model.sha256=null").model, 0)


def test_other_weights_are_refused_by_their_digest() -> None:
    cfg = compose(f"model.sha256={'0' * 64}").model
    with pytest.raises(ValueError, match="sha256"):
        models.load_vt5(cfg, 0)
