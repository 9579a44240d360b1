"""Laws of the generated documents."""

import hashlib
import json
from typing import Any

import pytest
from datasets import DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fl_app.config import compose
from fl_app.data import client_split, load
from fl_app.data.invoices.load import make_documents
from fl_app.data.invoices.provider import POOLS
from fl_app.data.invoices.vocabulary import FEDERATED, FIELDS, PRETRAINING, Vocabulary
from fl_app.data.preview import draw

CFG = compose().data


@pytest.fixture(scope="module")
def data() -> DatasetDict:
    return load(CFG, seed=0)


@pytest.fixture(scope="module", params=sorted(POOLS))
def rows(request) -> list[dict[str, Any]]:
    return make_documents(3, POOLS[request.param], range(60), range(2))


def test_answers_are_runs_of_words_of_their_field(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        for field, (answer,) in zip(row["fields"], row["answers"], strict=True):
            tag = FIELDS.index(field) + 1
            positions = [i for i, t in enumerate(row["tags"]) if t == tag]
            assert positions
            # Another column of the page may stand between two lines, never inside a value.
            assert positions == list(range(positions[0], positions[0] + len(positions)))
            assert answer == " ".join(row["words"][i] for i in positions)


def test_every_word_is_on_the_page(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert len(row["words"]) == len(row["boxes"]) == len(row["tags"])
        assert all(word and word == word.strip() and " " not in word for word in row["words"])
        for x0, y0, x1, y1 in row["boxes"]:
            assert 0 <= x0 < x1 <= 1000
            assert 0 <= y0 < y1 <= 1000


def test_values_do_not_overlap(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        boxes = [b for b, tag in zip(row["boxes"], row["tags"], strict=True) if tag]
        for i, (x0, y0, x1, y1) in enumerate(boxes):
            for u0, v0, u1, v1 in boxes[:i]:
                # A little is the scanner's jitter.
                assert min(x1, u1) - max(x0, u0) <= 4 or min(y1, v1) - max(y0, v0) <= 4


def test_amounts_add_up() -> None:
    for row in make_documents(3, POOLS["pretraining"], range(40), range(1)):
        answers = dict(zip(row["fields"], row["answers"], strict=True))
        cents = {
            field: int("".join(c for c in answers[field][0] if c.isdigit()))
            for field in ("subtotal", "tax", "total")
        }
        assert cents["total"] >= cents["subtotal"] + cents["tax"]


def test_sizes(data: DatasetDict) -> None:
    assert len(data["train"]) == 10 * 40 * 5
    assert sum(map(len, data["test"]["questions"])) == 640
    assert len(set(data["unseen"]["provider"])) == 40


def test_splits_share_providers_as_promised(data: DatasetDict) -> None:
    held = set(data["train"]["provider"])
    assert set(data["test"]["provider"]) <= held
    assert not set(data["unseen"]["provider"]) & held
    assert set(data["validation"]["provider"]) <= held
    assert len(set(data["validation"]["provider"])) == len(data["validation"]) == 40
    documents = [set(rows["document"]) for rows in data.values()]
    assert sum(map(len, documents)) == len(set.union(*documents))


@given(st.integers(0, 12))
@settings(max_examples=8)
def test_the_validation_split_changes_no_other(count: int) -> None:
    """And no document is in two, also where there are more than providers."""
    small = OmegaConf.merge(
        CFG,
        {"clients": 2, "providers_per_client": 2, "test_documents": 4, "unseen_providers": 1},
        {"public_documents": 1, "validation_documents": count},
    )
    found = load(small, seed=0)
    without = load(OmegaConf.merge(small, {"validation_documents": 0}), seed=0)
    assert {*without} == {"train", "test", "unseen", "public"}
    assert {name: found[name].to_list() for name in without} == {
        name: rows.to_list() for name, rows in without.items()
    }
    validation = found["validation"]["document"][:] if count else []
    assert len({*validation}) == count
    assert not {*validation} & {name for rows in without.values() for name in rows["document"]}


def test_clients_hold_whole_providers(data: DatasetDict) -> None:
    client = client_split(data["train"], CFG.partitioner, 3, CFG.clients, seed=1)
    providers = client["provider"][:]
    assert len(client) == 200
    assert all(providers.count(provider) == 5 for provider in providers)


def test_documents_do_not_depend_on_what_else_is_made() -> None:
    pool = POOLS["federated"]
    together = make_documents(5, pool, range(4), range(3))
    assert make_documents(5, pool, range(2, 3), range(1, 2)) == [together[2 * 3 + 1]]
    assert make_documents(6, pool, range(4), range(3)) != together


def test_the_same_bytes_on_every_machine(data: DatasetDict) -> None:
    digest = hashlib.sha256()
    for split in ("train", "test", "unseen"):
        for row in data[split].select(range(0, len(data[split]), 10)):
            digest.update(json.dumps(row, sort_keys=True).encode())
    assert digest.hexdigest() == (
        "1fc803aee02e5e5088c55f429bc6ea2a7f6311f2d63278317b18c4fa40e95528"
    )


def test_the_run_seed_changes_nothing_and_the_data_seed_everything(data: DatasetDict) -> None:
    small = OmegaConf.merge(CFG, {"clients": 1, "test_documents": 4, "unseen_providers": 1})
    assert load(small, seed=0)["test"].to_list() == load(small, seed=1)["test"].to_list()
    other = load(OmegaConf.merge(small, {"seed": CFG.seed + 1}), seed=0)
    assert not set(other["test"]["provider"]) & set(data["test"]["provider"])


def test_federated_labels_are_new_to_a_pretrained_model() -> None:
    def labels(languages: tuple[Vocabulary, ...]) -> set[str]:
        return {
            label.lower()
            for language in languages
            for field in FIELDS
            for label in language.labels[field]
        }

    known, new = labels(PRETRAINING), labels(FEDERATED)
    assert len(new - known) / len(new) > 0.95


def test_unknown_ids_name_the_alternatives() -> None:
    with pytest.raises(ValueError, match="known: docvqa_mini"):
        load(OmegaConf.create({"id": "docvqa"}), seed=0)


def test_preview_marks_the_fields(rows: list[dict[str, Any]]) -> None:
    image = draw(rows[0])
    blank = draw(rows[0] | {"words": [], "boxes": [], "tags": []})
    assert image.size == blank.size
    assert image.tobytes() != blank.tobytes()
