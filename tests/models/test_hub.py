"""A model of the hub, from the hub's own cache: the hub itself is not reached by tests."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from huggingface_hub import constants
from peft import AutoPeftModelForSequenceClassification

import fl_app
from fl_app import models
from fl_app.config import compose
from fl_app.runs.base_model import described
from tests import architectures

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch) -> Path:
    """Return the folder of a cached model ``org/tiny``, as the hub's client lays it out."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repo = tmp_path / "hub" / "models--org--tiny"
    folder = repo / "snapshots" / COMMIT
    architectures.model("bert", num_labels=2, id2label={0: "no", 1: "yes"}).save_pretrained(folder)
    architectures.tokenizer("<s> $A").save_pretrained(folder)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    return folder


def test_a_model_of_the_hub_is_trained_named_by_id_and_revision_and_found_by_peft(
    hub: Path, tmp_path: Path
) -> None:
    rows = [{"text": f"word {n}", "label": ("no", "yes")[n % 2]} for n in range(8)]
    for split in ("train", "test"):
        Dataset.from_list(rows).to_json(tmp_path / f"{split}.jsonl")
    words = (
        f"task=sequence_classification 'task.labels=[no,yes]' task.texts=[text] adapter=lora "
        f"data=table data.train.path={tmp_path}/train.jsonl data.test.path={tmp_path}/test.jsonl"
    )
    here = fl_app.open_session(f"model=org/tiny {words}")
    by_path = fl_app.open_session(f"model=huggingface model.path={hub} {words}")
    for one in (here, by_path):
        base = described(one.cfg.model)
        assert (base.id, base.revision) == ("org/tiny", COMMIT)
    assert here.manifest == by_path.manifest
    with torch.no_grad():
        for parameter in here.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    here.adapter.export(here.model, tmp_path / "adapter")
    again = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter").eval()
    batch = here.task.inputs(rows)
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, here.model.eval()(**batch).logits)


def test_a_model_that_the_cache_lacks_is_one_clear_error(hub: Path) -> None:
    cfg = compose("model=org/other task=sequence_classification")
    with pytest.raises(FileNotFoundError, match=r"model\.path='org/other' is neither.*hub id"):
        models.load(cfg.model, cfg.seed, cfg.task)
