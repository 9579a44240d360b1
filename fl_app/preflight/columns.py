"""Which column of a table is what: the label, the texts, who a row belongs to.

A column is chosen by its name and by what it holds; where that leaves a choice, the error lists it.
"""

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from fl_app.config import ConfigError, plain
from fl_app.data import sources
from fl_app.data.head import head
from fl_app.data.kinds import TEXTS, kind_of, said
from fl_app.data.owners import client_names
from fl_app.data.rows import some
from fl_app.faults.printable import printable
from fl_app.faults.suggestions import did_you_mean
from fl_app.tasks import metrics
from fl_app.tasks.labels import is_number

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

LABELS = ("label", "labels", "class", "target", "category", "sentiment", "intent", "gold", "y")
NUMBERS = ("score", "similarity_score", "rating")  # labels of a regression
DECIMAL = re.compile(r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)\s*")
TEXT = ("text", "sentence", "content", "message", "review", "comment", "body", "document")
PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"),
    ("question", "sentence"), ("text", "text_pair"), ("query", "passage"),
)  # fmt: skip
# Columns of texts by their type, and of something else by their name.
NO_TEXT = re.compile(r"(.*[_ -])?(id|idx|index|uuid|guid|key)|unnamed.*|", re.IGNORECASE)
LOOKED_AT = 200  # first rows, by which a column of texts is told from one of numbers or dates
MOST_LABELS = 200


class Table:
    """The rows of all clients together, read when they are first needed."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg.data

    @cached_property
    def splits(self) -> "DatasetDict":
        """Return all splits of the source, with its own names and types."""
        from fl_app.data import table

        own = self.cfg.train
        return table.source("data.train.path", own.path, own.name, self.cfg.sample_by)

    @cached_property
    def columns(self) -> list[str]:
        """Return the columns, from the header where the file is of this machine."""
        found = head("data.train", self.cfg.train)
        return self.rows.column_names if found is None else list(found.schema.names)

    @cached_property
    def rows(self) -> "Dataset":
        """Return the rows as clients get them."""
        from fl_app.data import table, texts

        return table.rows("data.train", self.cfg.train, "data.train.path", texts.Rules.of(self.cfg))

    def has_one_line_a_text(self) -> bool:
        """Tell whether the rows are a single paragraph of one text file with several lines."""
        path = str(self.cfg.train.path)
        if sources.SUFFIXES.get(Path(path).suffix) != sources.TEXT or not Path(path).is_file():
            return False
        from fl_app.data import kept

        with sources.readable("data.train.path", path):
            return len(kept.rows(sources.PARAGRAPH, [path])) == 1 < len(kept.rows("line", [path]))

    def values(self, column: str, lists: bool = False) -> list[object]:
        """Return the values of a column, each once, in the order of clients' names.

        With ``lists`` they may be those in lists.

        Raises
        ------
        ConfigError
            If there is no such column, or its values are no texts.
        """
        if column not in self.rows.column_names:
            names = self.rows.column_names
            raise ConfigError(
                f"data.train has no column {column!r}; it has {', '.join(names)}."
                f"{did_you_mean(column, names)}"
            )
        lists = lists and "lists" in self.kinds(column)
        for kind in sorted(self.kinds(column) - {*TEXTS, *(("lists",) if lists else ())}):
            raise ConfigError(said(f"data.train.path={self.cfg.train.path}", column, kind)["whole"])
        there = [value for value in self.rows[column][:] if value is not None]
        if lists:
            there = [one for some in there for one in some if one is not None]
            if odd := sorted({kind_of(one) for one in there} - {*TEXTS}):
                raise ConfigError(
                    f"data.train.path={self.cfg.train.path}: the column {column!r} holds lists of "
                    f"{odd[0]}: a label is a text or a whole number; write them as texts first"
                )
        found = client_names(there)
        return [value for value in found if str(value).strip()]

    def kinds(self, column: str) -> set[str]:
        """Return what the values of a column are."""
        from fl_app.data.texts import kinds

        return kinds(self.rows, column)

    def texts(self) -> list[str]:
        """Return the columns of texts: most of their values have letters, and none is an id."""
        return [
            name
            for name in self.rows.column_names
            if self.kinds(name) == {"strings"}
            and not self.classes(name)
            and not NO_TEXT.fullmatch(name)
            and _has_letters(self.rows[name][:LOOKED_AT])
        ]

    def classes(self, column: str) -> list[str]:
        """Return the names of a ClassLabel or a list of them, in order; none for another column."""
        from fl_app.data import table

        names = {new: old for old, new in plain(self.cfg.train.columns).items()}
        source = self.splits[str(self.cfg.train.split).partition("[")[0]]
        feature = source.features.get(names.get(column, column))
        return table.class_names(feature)


def label_column(table: Table, cfg: DictConfig, typed: set[str]) -> str:
    """Return the column of the label: of a usual name, of classes, of what the problem needs, or
    the only one that is left.
    """
    texts = {*map(str, cfg.task.texts)} if "task.texts" in typed else set()
    others = {str(cfg.data.client), *owner_columns(cfg), *texts}
    names = [name for name in table.columns if name not in others]
    usual = [name for name in names if name.lower() in LABELS]
    usual = usual or [name for name in names if name.lower() in NUMBERS]
    classes = [name for name in names if table.classes(name)]
    problem = str(cfg.task.problem_type)
    needed = [
        name
        for name in names
        if problem != metrics.SINGLE and (problem_of(table, name) or ("",))[0] == problem
    ]
    left = [name for name in names if texts and not NO_TEXT.fullmatch(name)]
    for found in (usual, classes, needed, left):
        if len(found) == 1:
            return found[0]
    raise ConfigError(
        f"data.train has no column {str(cfg.task.label)!r}; which of its columns is the label? "
        f"{', '.join(usual or classes or names)}: set task.label"
    )


def problem_of(table: Table, label: str) -> tuple[str, str] | None:
    """Return the kind of problem that a column's values tell, and how; None: a label a row."""
    kinds = table.kinds(label)
    if "lists" in kinds:
        return metrics.MULTI, f"the column {label!r}, which holds lists"
    if "floats" in kinds and kinds <= {"floats", "integers"}:
        return metrics.REGRESSION, f"the column {label!r}, which holds floats"
    if kinds == {"strings"} and not table.classes(label):
        values = {one for one in table.rows[label][:] if one is not None}
        if values and all(map(DECIMAL.fullmatch, values)) and not all(map(is_number, values)):
            return metrics.REGRESSION, f"the column {label!r}, which holds decimal numbers"
    return None


def owner_columns(cfg: DictConfig) -> set[str]:
    return {str(cfg.data.partitioner.column)} if "column" in cfg.data.partitioner else set()


def text_columns(table: Table, others: set[str], option: str = "task.texts") -> list[str]:
    """Return the column of texts, or the two columns of a pair, which ``task.texts`` may name."""
    found = [name for name in table.texts() if name not in others]
    if len(found) == 1:
        return found
    for pair in PAIRS:
        if {*pair} <= {*found} and option == "task.texts":
            return list(pair)
    usual = [name for name in TEXT if name in found]
    if len(usual) == 1:
        return usual
    raise ConfigError(
        "which column of data.train is the text? Candidates: "
        f"{', '.join(found) or 'none, it has no column of texts'}: set "
        + (
            "task.texts=[COLUMN], or two for pairs"
            if option == "task.texts"
            else f"{option}=COLUMN"
        )
    )


def label_names(table: Table, column: str, lists: bool = False) -> tuple[list[str], str]:
    """Return the labels in the order of a ClassLabel, else sorted; and where they were read.

    Raises
    ------
    ConfigError
        If there are too many or too few, or of a kind whose spelling is open.
    """
    if names := table.classes(column):
        return names, f"the classes of the column {column!r}"
    names = [str(one) for one in table.values(column, lists)]
    if all(map(is_number, names)):
        names.sort(key=int)
    if not 2 - lists <= len(names) <= MOST_LABELS:
        raise ConfigError(
            f"the column {column!r} has {len(names):,} different values "
            f"({printable(some(names))}): a label has at least two and not thousands. Name the "
            "column in task.label, or the labels in task.labels"
        )
    return names, f"the column {column!r} of data.train, sorted"


def _has_letters(values: Iterable[str | None]) -> bool:
    """Tell whether most of the values that are there have a letter."""
    given = [value for value in values if value and value.strip()]
    return sum(any(map(str.isalpha, value)) for value in given) * 2 > len(given)
