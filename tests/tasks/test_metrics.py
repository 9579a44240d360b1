"""Laws of scores beside accuracy: perplexity, ROUGE-L, token F1, and which end is better."""

import math
import string

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_app.config import compose
from fl_app.data.padding import IGNORED
from fl_app.tasks import free_text, metrics
from fl_app.tasks.likelihood import perplexity
from tests import architectures
from tests.tasks.test_tasks import ROWS, _causal

words = st.lists(st.text(string.ascii_lowercase, min_size=2, max_size=5), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ("task=causal_lm", ("accuracy", "rouge_l", "token_f1", "perplexity")),
        ("task=gsm8k", ("accuracy", "perplexity")),
        ("task=seq2seq", ("accuracy", "rouge_l", "token_f1")),
        ("task=docvqa", ("anls", "accuracy")),
        ("task=sequence_classification", ("accuracy", "macro_f1", "balanced_accuracy", "mcc")),
    ],
)
def test_a_task_says_its_metrics_before_there_is_a_model(overrides: str, names) -> None:
    assert metrics.of(compose(overrides).task) == names


def test_scores_are_those_that_the_task_names() -> None:
    task, model = _causal(), architectures.model("llama")
    found = {**task.score(task.predict(model, ROWS), ROWS), **task.measure(model, ROWS)}
    assert tuple(found) == task.metrics
    for name, value in found.items():
        assert metrics.scale(name).least <= value <= metrics.scale(name).most


def test_perplexity_is_that_of_all_tokens_of_the_answers() -> None:
    """Computed again, a row at a time and from the logits."""
    task, model = _causal(), architectures.model("llama", spread=2.0).eval()
    rows = ROWS * 7  # more than a batch
    total, count = 0.0, 0
    for row in rows:
        inputs = task.training([row])
        with torch.no_grad():
            likely = model(**inputs).logits.double().log_softmax(-1)[0]
        for place, label in enumerate(inputs["labels"][0].tolist()):
            if label != IGNORED:
                total -= float(likely[place - 1, label])
                count += 1
    # Losses of a batch are sums of float32, of at most 16 x 40 tokens.
    assert perplexity(model, task.training, rows) == pytest.approx(
        math.exp(total / count), rel=1e-4
    )


def test_perplexity_stays_a_number() -> None:
    task, model = _causal(), architectures.model("llama")
    with torch.no_grad():
        model.lm_head.weight.mul_(1e6)
    assert 1 <= perplexity(model, task.training, ROWS) <= metrics.MOST


@given(words, words)
def test_free_texts_score_1_where_they_are_a_reference_and_0_where_they_share_no_word(
    one, other
) -> None:
    right, wrong = " ".join(one), " ".join(word.upper() + "9" for word in other)
    for score in (free_text.rouge_l, free_text.token_f1):
        assert score([right], [[wrong, right]]) == pytest.approx(1)
        assert score([right], [[wrong]]) == 0 or set(one) & {word.lower() + "9" for word in other}
        assert score([right, wrong], [[right], [right]]) == pytest.approx(
            (1 + score([wrong], [[right]])) / 2
        )


def test_rouge_l_is_lins_example_and_reads_every_script() -> None:
    """Lin 2004, section 3.1: "police kill the gunman" against "police killed the gunman"."""
    said = ["police kill the gunman", "the gunman kill police"]
    assert free_text.rouge_l(said[:1], [["police killed the gunman"]]) == pytest.approx(3 / 4)
    assert free_text.rouge_l(said[1:], [["police killed the gunman"]]) == pytest.approx(2 / 4)
    assert free_text.rouge_l(["größere Прибыль"], [["Größere прибыль!"]]) == pytest.approx(1)


def test_token_f1_is_that_of_squad() -> None:
    assert free_text.token_f1(["The cat sat."], [["a cat"]]) == pytest.approx(2 / 3)


def test_lower_is_better_for_perplexity_alone() -> None:
    assert metrics.oriented("perplexity", 3.0) < metrics.oriented("perplexity", 2.0)
    assert metrics.oriented("accuracy", 0.3) > metrics.oriented("accuracy", 0.2)
