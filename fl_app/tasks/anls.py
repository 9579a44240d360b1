"""ANLS and exact-match accuracy, as the PFL-DocVQA competition scores answers.

Both sides are lower-cased and stripped. A question's score is its best over the accepted answers.
"""

from collections.abc import Sequence

from fl_app.faults import FaultError

THRESHOLD = 0.5  # a similarity below it counts as 0 (Biten et al. 2019, arXiv:1905.13648)


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Return the average normalized Levenshtein similarity of one prediction, in [0, 1].

    ``max over answers of 1 - edit_distance / max(len)``; 0 below 0.5 or for an empty prediction.

    Raises
    ------
    FaultError
        No accepted answer.
    """
    predicted = _normalize(prediction)
    best = max(_similarity(predicted, _normalize(answer)) for answer in _some(answers))
    return best if best >= THRESHOLD else 0.0


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return 1.0 if the prediction equals an accepted answer, else 0.0.

    Raises
    ------
    FaultError
        No accepted answer.
    """
    predicted = _normalize(prediction)
    return float(any(predicted == _normalize(answer) for answer in _some(answers)))


def score(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the means of ``anls`` and ``accuracy`` over questions, each in [0, 1].

    Parameters
    ----------
    predictions : sequence of str
        One per question.
    answers : sequence of sequences of str
        The accepted answers of each question, in the same order.

    Raises
    ------
    ValueError
        Lengths differ, there is no question, or a question has no accepted answer.
    """
    pairs = list(zip(predictions, answers, strict=True))
    if not pairs:
        raise ValueError("no predictions to score")
    return {
        "anls": sum(anls(p, a) for p, a in pairs) / len(pairs),
        "accuracy": sum(accuracy(p, a) for p, a in pairs) / len(pairs),
    }


def edit_distance(a: str, b: str) -> int:
    """Return the Levenshtein distance: insertions, deletions and substitutions of characters."""
    row = list(range(len(b) + 1))
    for i, char in enumerate(a, start=1):
        previous, row = row, [i]
        for j, other in enumerate(b, start=1):
            substituted = previous[j - 1] + (char != other)
            row.append(min(substituted, previous[j] + 1, row[j - 1] + 1))
    return row[-1]


def _normalize(text: str) -> str:
    return text.lower().strip()


def _similarity(predicted: str, answer: str) -> float:
    if not predicted:
        return 0.0
    return 1.0 - edit_distance(predicted, answer) / max(len(predicted), len(answer))


def _some(answers: Sequence[str]) -> Sequence[str]:
    if not answers:
        raise FaultError(
            "empty", "a question needs at least one accepted answer", column="answers", rows=1
        )
    return answers
