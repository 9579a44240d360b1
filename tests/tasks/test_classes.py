"""Scores of classifiers: known values, and laws of the confusion matrix."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app.tasks import classes
from fl_app.tasks.classes import METRICS, balanced_accuracy, confusion, macro_f1, mcc

LABELS = ["a", "b", "c"]
PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1)


def scores(true, predicted, labels=LABELS):
    matrix = confusion(predicted, true, labels)
    return {name: metric(matrix) for name, metric in METRICS.items()}


def test_known_values():
    # 85 of 100 are ham, and nothing else is predicted.
    found = scores(["ham"] * 85 + ["spam"] * 15, ["ham"] * 100, ["ham", "spam"])
    assert found == pytest.approx(
        {"accuracy": 0.85, "macro_f1": 2 * 85 / 185 / 2, "balanced_accuracy": 0.5, "mcc": 0.0}
    )
    # Two labels: 4 true positives, 1 false positive, 2 false negatives, 3 true negatives.
    matrix = np.array([[3, 1], [2, 4]])
    assert mcc(matrix) == pytest.approx((4 * 3 - 1 * 2) / math.sqrt(5 * 6 * 4 * 5))
    assert balanced_accuracy(matrix) == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert macro_f1(matrix) == pytest.approx((6 / 9 + 8 / 11) / 2)


@given(PAIRS)
def test_laws(pairs):
    true, predicted = zip(*pairs, strict=True)
    found = scores(true, predicted)
    assert -1 <= found["mcc"] <= 1
    assert all(0 <= found[name] <= 1 for name in METRICS if name != "mcc")
    assert found["accuracy"] == sum(t == p for t, p in pairs) / len(pairs)
    turned = scores(true, predicted, LABELS[::-1])  # the order of the labels says nothing
    assert found == pytest.approx(turned)
    assert scores(predicted, true)["mcc"] == pytest.approx(found["mcc"])
    assert scores(true, true)["macro_f1"] == scores(true, true)["balanced_accuracy"] == 1
    if len({*predicted}) == 1 or len({*true}) == 1:
        assert found["mcc"] == 0
    table = classes.by_label(confusion(predicted, true, LABELS), LABELS)
    assert sum(one["rows"] for one in table) == len(pairs)
    used = [one["f1"] for one in table if one["label"] in {*true, *predicted}]
    assert np.mean(used) == pytest.approx(found["macro_f1"])
