"""Questions on a context, with several right answers, as SQuAD has them (Rajpurkar et al. 2016)."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from omegaconf import DictConfig
from torch import Tensor

from fl_app.data.rows import numbers
from fl_app.faults import FaultError
from fl_app.tasks.base import ModelSpec
from fl_app.tasks.causal_lm import CausalLM
from fl_app.tasks.filled import check_filled
from fl_app.tasks.instruction import Instruction
from fl_app.tasks.seq2seq import Seq2Seq


class Answers(Instruction):
    """The first answer of a row is taught; each of them is right.

    Parameters
    ----------
    cfg : DictConfig
        ``reference``, the column of the answers, ``{text: [...]}``, which ``response`` may name;
        ``unanswerable``, the answer of rows without one, as SQuAD 2 has (null: such rows are
        refused); others see `Instruction`.
    spec : ModelSpec
        The model.
    """

    def __init__(self, cfg: DictConfig, spec: ModelSpec) -> None:
        super().__init__(cfg, spec)
        self.unanswerable: str | None = cfg.unanswerable

    def check(self, rows: Dataset) -> None:
        """Refuse rows without an answer, if there is none for them, and values that are no texts.

        Raises
        ------
        FaultError
            With the number of such rows.
        """
        check_filled([one for one in self.columns if one != self.reference], rows)
        none = [k for k, value in enumerate(rows[self.reference]) if not self._texts(value)]
        if none:
            raise FaultError(
                "answers",
                f"{len(none)} of {len(rows)} rows have no answer in the column {self.reference!r}, "
                f"which should hold {{text: [...]}}: {numbers(none)}. Say with "
                "task.unanswerable=TEXT what is right there, or leave them out",
                column=self.reference,
                rows=len(none),
            )

    def training(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return ``input_ids``, ``attention_mask`` and ``labels``, each [rows, tokens]."""
        return super().training([{**r, self.reference: self.references(r)[0]} for r in rows])  # type: ignore[safe-super]

    def references(self, row: Mapping[str, Any]) -> list[str]:
        """Return the right answers of a row."""
        found = self._texts(row.get(self.reference))
        if not found:
            raise FaultError("answers", column=self.reference, rows=1)
        return found

    def _texts(self, value: Any) -> list[str]:
        """Return the answers in a value; none where it has another form."""
        texts = value.get("text") if isinstance(value, Mapping) else None
        if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
            return []
        filled = [one for one in texts if one.strip()]
        return filled or ([] if self.unanswerable is None else [self.unanswerable])


class Squad(Answers, CausalLM):
    """For decoders."""


class SquadSeq2Seq(Answers, Seq2Seq):
    """For encoder-decoders."""
