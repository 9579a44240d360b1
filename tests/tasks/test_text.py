"""Laws of continued pretraining: what pieces hold, what is scored, and that training learns."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.normalizers import Replace
from transformers import PreTrainedTokenizerFast

from fl_app import data, tasks
from fl_app.build import open_session
from fl_app.config import ConfigError, compose
from fl_app.data.padding import IGNORED
from fl_app.faults import FaultError
from fl_app.preflight import check_values
from fl_app.preflight.inferred import with_inferred
from fl_app.preflight.survey import survey
from fl_app.tasks.pieces import Pieces
from fl_app.training.loop import train
from tests import architectures
from tests.rounding import DOUBLES, apart

TOKENIZERS = {
    "start token": lambda: architectures.tokenizer("<s> $A"),
    "no start token": lambda: architectures.tokenizer("$A", start=False),
    "start and end token": lambda: architectures.tokenizer("<s> $A </s>"),
    "no padding token": lambda: architectures.tokenizer("<s> $A", pad=False),
}
ROWS = [{"text": "the cat sat on the mat"}, {"text": "so"}, {"text": "a </s> is text\nhere"}]


def _task(tokenizer: PreTrainedTokenizerFast | None = None, length: int = 12) -> Any:
    cfg = compose(f"task=text model.max_length={length}")
    made = tokenizer or architectures.tokenizer("<s> $A")
    return tasks.build(cfg, made, architectures.config("llama"))


@given(
    st.lists(st.lists(st.integers(4, 300), min_size=1, max_size=20), min_size=1, max_size=4),
    st.sampled_from([[], [1]]),
    st.integers(2, 9),
)
def test_every_token_of_a_document_is_predicted_once_from_those_before_it(
    documents: list[list[int]], start: list[int], length: int
) -> None:
    pieces = Pieces(documents, start, length)
    found: dict[int, list[int]] = {}
    for owner, (ids, labels) in zip(pieces.owners, pieces, strict=True):
        done = found.setdefault(owner, [] if start else documents[owner][:1])
        assert len(ids) <= length
        assert labels == [IGNORED, *ids[1:]]
        assert ids[0] == (start or done)[-1]
        done += ids[1:]
    for owner, document in enumerate(documents):
        assert found.get(owner, document[:1]) == document
    assert sorted(pieces.owners) == pieces.owners


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_document_is_its_text_and_an_end_token(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    task = _task(tokenizer, length=100)
    batch = task.training(ROWS)
    start = [] if kind == "no start token" else [architectures.START]
    for row, ids, mask, labels in zip(
        ROWS, batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
    ):
        whole = ids[mask.bool()].tolist()
        assert whole[: len(start)] == start
        assert whole.count(architectures.END) == 1  # the text has the spelling of one
        assert whole[-1] == architectures.END
        assert tokenizer.decode(whole[len(start) : -1]) == row["text"]
        assert labels.tolist() == [IGNORED, *whole[1:], *[IGNORED] * (len(ids) - len(whole))]


@pytest.mark.parametrize("length", [6, 100])
def test_the_loss_and_the_scores_are_of_all_tokens(length: int) -> None:
    """Written out: the likelihood of each token, given what stands before it in its piece."""
    task, model = _task(length=length), architectures.model("llama", 2.0).double()
    pieces = task.cut(ROWS)
    nll, right = [], []
    with torch.inference_mode():
        loss = float(model(**task.training(ROWS)).loss)
        for ids, _ in pieces:
            log_p = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            for at, token in enumerate(ids[1:]):
                nll.append(-float(log_p[at, token]))
                right.append(int(log_p[at].argmax()) == token)
    assert apart(torch.tensor(loss), torch.tensor(sum(nll) / len(nll))) < DOUBLES
    predictions = task.predict(model, ROWS)
    scores = task.score(predictions, ROWS)
    assert scores["perplexity"] == pytest.approx(math.exp(sum(nll) / len(nll)), rel=1e-5)
    assert scores["token_accuracy"] == pytest.approx(sum(right) / len(right))
    assert (*scores,) == task.metrics
    assert [one["tokens"] for one in predictions] == [len(row["text"]) + 1 for row in ROWS]
    assert json.loads(json.dumps(predictions)) == predictions


def test_a_model_that_says_nothing_has_the_size_of_its_vocabulary_as_perplexity() -> None:
    task, model = _task(), architectures.model("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = task.score(task.predict(model, ROWS), ROWS)
    assert found["perplexity"] == pytest.approx(architectures.VOCABULARY)
    hopeless = [{"tokens": 1, "right": 0, "loss": one} for one in (1e6, math.nan)]
    for one in hopeless:
        assert math.isfinite(task.score([one], ROWS[:1])["perplexity"])


def test_training_is_in_batches_of_pieces_and_learns() -> None:
    rows = [{"text": "abcdefgh" * 12}, {"text": "hgfedcba" * 9}]
    task, model = _task(length=16), copy.deepcopy(architectures.model("llama"))
    widths: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    before = task.score(task.predict(model, rows), rows)
    widths.clear()
    cfg = compose("task=text model=llama-tiny").optimizer
    with torch.random.fork_rng(devices=[]):
        turn = train(model, rows, task, cfg, epochs=8, batch_size=4, seed=0)
    assert turn.examples == len(task.cut(rows)) > len(rows)
    assert all(rows_ <= 4 and tokens <= 16 for rows_, tokens in widths)
    after = task.score(task.predict(model, rows), rows)
    assert after["perplexity"] < 0.5 * before["perplexity"]
    assert after["token_accuracy"] > before["token_accuracy"]


@settings(max_examples=10)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1, max_size=4))
def test_no_text_loses_a_part(texts: list[str]) -> None:
    rows = [{"text": f"x{one}"} for one in texts]
    found = survey(_task(length=5), "train", Dataset.from_list(rows))
    assert (found.rows, found.cut) == (len(rows), 0)


def test_rows_without_a_text_are_counted() -> None:
    task = _task()
    with pytest.raises(FaultError, match=r"2 of 3 rows have a blank text .*: 1, 3 \(counted"):
        tasks.check_rows(task, "train", Dataset.from_list([{"text": t} for t in ("", "a", " \n")]))
    with pytest.raises(FaultError, match="1 of 2 rows have no value in the column 'text': 2"):
        tasks.check_rows(task, "train", Dataset.from_list([{"text": "a"}, {"text": None}]))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("model.max_length=1", "should be at least 2"),
        ("task.text=''", "the name of a column"),
        ("target.metric=accuracy", r"one of \['perplexity', 'token_accuracy'\]"),
        ("task.id=seq2seq", r"task\.format=text needs task\.id=causal_lm"),
    ],
)
def test_what_cannot_be_is_refused(words: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("a\n\nb\n\nc\n")
    typed = f"task=text model=llama-tiny data=table data.train.path={tmp_path}/rows.txt {words}"
    cfg = compose(f"{typed} data.test.share=0.4")
    with pytest.raises(ValueError, match=says):
        _checked(cfg)


def _checked(cfg: Any) -> None:
    check_values(cfg)
    tasks.build(cfg, architectures.tokenizer("<s> $A"), architectures.config("llama"))


def test_a_text_file_trains_the_embedded_decoder(tmp_path: Path) -> None:
    """One without blank lines is read by its lines; a folder and a table are texts too."""
    path = tmp_path / "rows.txt"
    path.write_text("\n".join(f"line {n}" for n in range(20)))
    words, found = with_inferred(f"model=llama-tiny task=text data=table data.train.path={path}")
    assert "data.sample_by=line" in [one.shown for one in found]
    session = open_session(f"{words} federation.clients=2")
    check_values(session.cfg)
    assert sum(len(session.documents(client)) for client in (0, 1)) == len(session.data["train"])
    scores = session.evaluate(session.theta0, session.data["test"])
    assert scores["perplexity"] > 1
    table = tmp_path / "rows.jsonl"
    table.write_text("\n".join(json.dumps({"id": n, "body": "a b"}) for n in range(20)))
    words, found = with_inferred(f"model=llama-tiny task=text data=table data.train.path={table}")
    assert "task.text=body" in [one.shown for one in found]
    assert data.load(compose(words).data, 0)["train"][0]["body"] == "a b"
    with pytest.raises(ConfigError, match="The rows are plain text: use task=text"):
        check_values(
            compose(
                f"model=llama-tiny task=causal_lm data=table data.train.path={path} "
                "data.test.share=0.2 target.metric=accuracy"
            )
        )


def test_a_text_without_a_token_is_its_end_token_or_refused() -> None:
    rows = Dataset.from_list([{"text": "so"}, {"text": "\u200b"}])
    model = architectures.model("llama")
    with_start, without = (TOKENIZERS[kind]() for kind in ("start token", "no start token"))
    for tokenizer in (with_start, without):
        tokenizer.backend_tokenizer.normalizer = Replace("\u200b", "")
    assert _task(with_start).predict(model, rows)[1]["tokens"] == 1
    task = _task(without)
    for use in (lambda: task.training([*rows]), lambda: task.predict(model, rows)):
        with pytest.raises(FaultError, match="1 of 2 texts in the column 'text': 2 "):
            use()
