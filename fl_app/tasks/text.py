"""Continued pretraining: a decoder learns to continue plain text, with the loss on all tokens."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from fl_app.data.padding import IGNORED, pad
from fl_app.data.rows import numbers
from fl_app.faults import FaultError
from fl_app.tasks import metrics
from fl_app.tasks.base import ModelSpec
from fl_app.tasks.causal_lm import Marks
from fl_app.tasks.evaluation import PREDICT_ROWS, Rows, check_predictions, evaluating
from fl_app.tasks.filled import check_filled
from fl_app.tasks.pieces import Piece, Pieces
from fl_app.tasks.template import text_of
from fl_app.tasks.tokens import Tokens

Prediction = dict[str, float]
"""How a model predicts a document: ``tokens`` that are predicted, how many of them are ``right``
(its likeliest ones), and their mean negative log likelihood, ``loss``, in nats."""


class Text:
    """A model with a language-model head learns to continue documents.

    A row is a document. It is trained in `Pieces` of ``max_length`` tokens at most, which batches
    are made of. With privacy=dp_sgd a row stays whole: all pieces of a document are one example.

    Parameters
    ----------
    cfg : DictConfig
        ``text``, the column.
    spec : ModelSpec
        The model.

    Raises
    ------
    ValueError
        A tokenizer without an end token, or pieces of less than 2 tokens.
    """

    def __init__(self, cfg: DictConfig, spec: ModelSpec) -> None:
        if spec.max_length < 2:
            raise ValueError(
                f"model.max_length={spec.max_length} should be at least 2: the second token of a "
                "piece is the first one that is predicted"
            )
        self.metrics = metrics.of(cfg)
        self.column: str = cfg.text
        self.columns = self.asked = (self.column,)
        self.tokens = Tokens(spec.tokenizer)
        self.start, self.end, self.pad = Marks.of(spec.tokenizer)
        self.length = spec.max_length
        self.max_answer_length = spec.max_answer_length  # of an exported model

    def check(self, rows: Dataset) -> None:
        """Refuse rows without a text.

        Raises
        ------
        FaultError
            With the number of such rows.
        """
        check_filled(self.columns, rows)
        blank = [k for k, one in enumerate(rows[self.column]) if not str(one).strip()]
        if blank:
            raise FaultError(
                "empty",
                f"{len(blank)} of {len(rows)} rows have a blank text in the column "
                f"{self.column!r}: {numbers(blank)}. Leave them out, such "
                f"as with data.train.drop.{self.column}=['']",
                column=self.column,
                rows=len(blank),
            )

    def cut(self, rows: Rows) -> Pieces:
        """Return what rows are trained as.

        Raises
        ------
        FaultError
            The tokenizer drops all characters of a text, and has no start token, behind which the
            end token could be predicted.
        """
        texts = [text_of(rows[at], self.column, "task.text") for at in range(len(rows))]
        ids = self.tokens(texts, add_special_tokens=False, verbose=False)["input_ids"]
        if not self.start and (gone := [k for k, one in enumerate(ids) if not one]):
            raise FaultError(
                "empty",
                f"the tokenizer has no token for any character of {len(gone)} of {len(ids)} texts "
                f"in the column {self.column!r}: {numbers(gone)} of those that were read together. "
                "Leave such rows out, or choose another model",
                column=self.column,
                rows=len(gone),
            )
        return Pieces([[*one, self.end] for one in ids], self.start, self.length)

    def training(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Return ``input_ids``, ``attention_mask`` and ``labels``, each [pieces, tokens].

        They are padded on the right.

        Parameters
        ----------
        rows : sequence of Piece or of dict
            Pieces, or documents, whose pieces are returned all.
        """
        pieces = rows if isinstance(rows[0], Piece) else self.cut(rows)
        return {
            "input_ids": pad([one.ids for one in pieces], self.pad),
            "attention_mask": pad([[1] * len(one.ids) for one in pieces], 0),
            "labels": pad([one.labels for one in pieces], IGNORED),
        }

    def examples(self, rows: Rows) -> int:
        """Return the number of rows, or of pieces: each is one example."""
        return len(rows)

    def predict(self, model: PreTrainedModel, rows: Rows) -> list[Prediction]:
        """Return how well each document is predicted."""
        pieces = self.cut(rows)
        tokens, right = [0] * len(rows), [0] * len(rows)
        loss = [0.0] * len(rows)
        with evaluating(model):
            for first in range(0, len(pieces), PREDICT_ROWS):
                some = pieces[first : first + PREDICT_ROWS]
                for at, logits in enumerate(self._logits(model, some)):
                    owner = pieces.owners[first + at]
                    labels = torch.tensor(some[at].labels[1:], device=logits.device)
                    tokens[owner] += len(labels)
                    right[owner] += int((logits.argmax(-1) == labels).sum())
                    loss[owner] += float(cross_entropy(logits, labels, reduction="sum"))
        return [
            {"tokens": n, "right": k, "loss": nll / n}
            for n, k, nll in zip(tokens, right, loss, strict=True)
        ]

    def _logits(self, model: PreTrainedModel, pieces: Sequence[Piece]) -> Iterator[Tensor]:
        """Yield the logits of the predicted tokens of each piece, float32 [tokens, vocabulary]."""
        device = next(model.parameters()).device
        inputs = self.training(pieces)
        whole = {name: inputs[name].to(device) for name in ("input_ids", "attention_mask")}
        length = whole["input_ids"].shape[1]
        logits = model(**whole, use_cache=False).logits[:, -length:]  # behind virtual tokens
        for piece, one in zip(pieces, logits, strict=True):
            yield one[: len(piece.ids) - 1].float()

    def score(self, predictions: Sequence[Prediction], rows: Rows) -> dict[str, float]:
        """Return ``token_accuracy`` and ``perplexity``, over all predicted tokens of all rows.

        Raises
        ------
        ValueError
            There are not as many predictions as rows, or none.
        """
        check_predictions(predictions, rows)
        tokens = sum(one["tokens"] for one in predictions)
        loss = sum(one["loss"] * one["tokens"] for one in predictions) / tokens
        return {
            metrics.PERPLEXITY: metrics.perplexity(loss),
            metrics.TOKEN_ACCURACY: sum(one["right"] for one in predictions) / tokens,
        }

    def measure(self, model: PreTrainedModel, rows: Rows) -> dict[str, float]:
        """Return nothing: the predictions say all."""
        return {}

    def shown(self, rows: Rows) -> list[tuple[str, str]]:
        """Return the text of each row, beside which there is no right answer."""
        return [(text_of(rows[at], self.column, "task.text"), "") for at in range(len(rows))]
