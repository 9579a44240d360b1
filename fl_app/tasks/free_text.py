"""Scores of a free text against its references: ROUGE-L and SQuAD's token F1, of torchmetrics.

Sources: Lin 2004, "ROUGE: a package for automatic evaluation of summaries"; Rajpurkar et al. 2016,
arXiv:1606.05250.
"""

import re
from collections.abc import Sequence
from typing import Any


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the mean F-measure of the longest common subsequence of words, in [0, 1].

    Words are runs of letters, digits and underscores of any script, without stemming; published
    scores keep ASCII alone. The best reference of each prediction counts.
    """
    # Imported where it is used: it takes two seconds.
    from torchmetrics.functional.text import rouge_score

    found = rouge_score(
        list(predictions),
        [list(some) for some in references],
        accumulate="best",
        normalizer=_words,
        tokenizer=str.split,
        rouge_keys="rougeL",
    )
    return float(found["rougeL_fmeasure"])


def token_f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the mean F1 of the words, in [0, 1], without case, punctuation and articles.

    The best reference of each prediction counts.
    """
    from torchmetrics.functional.text import squad

    said = [{"prediction_text": one, "id": str(i)} for i, one in enumerate(predictions)]
    right: list[Any] = [
        {"answers": {"answer_start": [0] * len(some), "text": list(some)}, "id": str(i)}
        for i, some in enumerate(references)
    ]
    return float(squad(said, right)["f1"]) / 100


def _words(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower())
