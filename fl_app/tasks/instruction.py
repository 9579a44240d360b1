"""Instruction tuning: prompts and responses made of columns, for every generating model."""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from omegaconf import DictConfig

from fl_app.tasks.base import ModelSpec
from fl_app.tasks.filled import check_filled, check_kind
from fl_app.tasks.generating import Generating
from fl_app.tasks.template import Template, text_of


class Instruction(Generating):
    """A generating model learns to answer prompts with responses.

    Parameters
    ----------
    cfg : DictConfig
        ``prompt`` and ``response``, templates; ``reference``, the column whose final answer is the
        right one; ``answer``, how answers are found and compared (``fl_app.tasks.answers``);
        ``average_over``, a column: accuracy is then the mean over its values of the mean over the
        rows of each, as in tables over several test sets (null: the mean over all rows).
    spec : ModelSpec
        The model.

    Attributes
    ----------
    columns : tuple of str
        All columns that every row needs, each once.
    asked : tuple of str
        Those that a prediction needs.
    optional : tuple of str
        The columns of the templates' sections, which a row may lack.

    Raises
    ------
    ValueError
        A text that is not a template, or a tokenizer that lacks a token.
    """

    def __init__(self, cfg: DictConfig, spec: ModelSpec) -> None:
        super().__init__(cfg, spec, cfg.reference)
        self.prompt = Template("task.prompt", cfg.prompt)
        self.response = Template("task.response", cfg.response)
        scored = [self.reference] + ([self.average_over] if self.average_over is not None else [])
        self.columns = tuple(dict.fromkeys([*self.prompt.columns, *self.response.columns, *scored]))
        self.asked = self.prompt.columns
        sections = (*self.prompt.optional, *self.response.optional)
        self.optional = tuple(one for one in dict.fromkeys(sections) if one not in self.columns)
        self._check_literals(getattr(spec.config.get_text_config(), "vocab_size", None))

    def _check_literals(self, vocabulary: int | None) -> None:
        for template in (self.prompt, self.response):
            ids = self.tokenizer(template.text, add_special_tokens=False)["input_ids"]
            if vocabulary is not None and max(ids, default=0) >= vocabulary:
                raise ValueError(
                    f"{template.key} has the token {self.tokenizer.decode([max(ids)])!r}, which is "
                    f"not in the model's vocabulary of {vocabulary}: leave it out"
                )

    def check(self, rows: Dataset) -> None:
        """Refuse rows without a value in a column, and values that are no texts.

        Raises
        ------
        FaultError
            With the number of such rows.
        """
        check_filled(self.columns, rows)
        for column in self.optional:
            if column in rows.column_names:
                check_kind(column, rows)

    def references(self, row: Mapping[str, Any]) -> list[str]:
        """Return the text in the column of the right answer."""
        return [text_of(row, self.reference)]

    def question(self, row: Mapping[str, Any]) -> str:
        """Return the prompt."""
        return self.prompt.fill(row)
