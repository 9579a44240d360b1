"""What is read from the data of a run on this machine, where the command line does not say it.

Only tables are looked at, and only keys that were not typed. What is found becomes overrides of the
run, so that every process, a resumed run and a stored result have it in words.
"""

import re
import shlex
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from omegaconf import DictConfig

from fl_app.config import ConfigError, compose, plain
from fl_app.config.data_only import key_of, parsed
from fl_app.config.shorthand import literal
from fl_app.data import sources
from fl_app.data.head import head
from fl_app.data.kinds import TEXTS, kind_of, said
from fl_app.data.owners import client_names
from fl_app.data.rows import some
from fl_app.faults.printable import printable
from fl_app.faults.suggestions import did_you_mean
from fl_app.tasks import metrics
from fl_app.tasks.labels import Labels, is_number

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SHARES = {"test": 0.2, "validation": 0.1}  # of each client's rows, where nothing else is given
SPLITS = {"test": ("test",), "validation": ("validation", "valid", "val", "dev")}
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
SHAREGPT = "conversations"
MOST_LABELS = 200
MOST_SHOWN = 20  # labels in a line


class Inferred(NamedTuple):
    """One option that was read from the data.

    Attributes
    ----------
    words : list of str
        The overrides.
    shown : str
        The option and its value, for the user.
    source : str
        Where it was read.
    """

    words: list[str]
    shown: str
    source: str


def with_inferred(overrides: str) -> tuple[str, list[Inferred]]:
    """Return a run's overrides with what its tables say, and what that is.

    Raises
    ------
    ConfigError
        If the data cannot be read, or leave open what is meant; the message names what there is to
        choose from.
    """
    cfg = compose(overrides)
    if cfg.data.id != "table" or cfg.resume is not None or cfg.data.train.path is None:
        return overrides, []
    words = shlex.split(overrides)
    typed = {key_of(parsed(word)) for word in words}
    try:
        found = list(_found(cfg, typed))
    except ConfigError:
        raise
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(str(error)) from None
    more = [word for one in found for word in one.words]
    return shlex.join([*words, *more]) if more else overrides, found


def announced(overrides: str) -> str:
    """Return a run's overrides with what its tables say, which is printed, a line each.

    Raises
    ------
    ConfigError
        See `with_inferred`.
    """
    overrides, found = with_inferred(overrides)
    for one in found:
        # A table of others chooses its names of columns.
        print(printable(f"inferred: {one.shown} (from {one.source})", most=1000), flush=True)
    return overrides


def _found(cfg: DictConfig, typed: set[str]) -> Iterator[Inferred]:
    table = _Table(cfg)
    owners = {"id": "client_column", "column": cfg.data.client}
    if cfg.data.client is not None and plain(cfg.data.partitioner) != owners:
        yield from _clients(table, cfg, typed)
    if "data.sample_by" not in typed and table.has_one_line_a_text():
        yield Inferred(
            ["data.sample_by=line"], "data.sample_by=line", "the file, which has no blank lines"
        )
    yield from _splits(table, cfg)
    asked = {"task.label", "task.texts", "task.labels"}
    is_known = cfg.task.get("problem_type") in metrics.PROBLEMS
    if cfg.task.id == "sequence_classification" and is_known and not asked <= typed:
        yield from _classes(table, cfg, typed)
    is_text = cfg.task.get("format") == "text" and "task.text" not in typed
    if is_text and str(cfg.task.text) not in table.columns:
        (column,) = _texts(table, {str(cfg.data.client), *_owner(cfg)}, "task.text")
        yield Inferred([f"task.text={literal(column)}"], f"task.text={column}", "the columns")
    if cfg.task.get("format") == "chat" and "task.messages" not in typed:
        names = table.rows.column_names
        if str(cfg.task.messages) not in names and SHAREGPT in names:
            yield Inferred(
                [f"task.messages={SHAREGPT}"], f"task.messages={SHAREGPT}", "the columns"
            )


class _Table:
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


def _clients(table: _Table, cfg: DictConfig, typed: set[str]) -> Iterator[Inferred]:
    column = str(cfg.data.client)
    if "data.partitioner" in typed or "data.partitioner.id" in typed:
        raise ConfigError(
            f"data.client={column} says that each value of that column is a client: leave out "
            "data.partitioner, or data.client"
        )
    names = table.values(column)
    if not names:
        raise ConfigError(f"data.client={column}: no row of data.train has a value in that column")
    words = [f"data.partitioner={{id: client_column, column: {literal(column)}}}"]
    if "federation.clients" not in typed:
        words.append(f"federation.clients={len(names)}")
    yield Inferred(
        words,
        f"{len(names)} clients: {printable(some(names), most=400)}",
        f"the column {column!r} of data.train",
    )


def _splits(table: _Table, cfg: DictConfig) -> Iterator[Inferred]:
    """Find the rows that the server scores, where no option names them."""
    given = cfg.data.test.path is not None or cfg.data.test.share is not None
    if given:
        return
    named = _named(table)
    for split, share in SHARES.items():
        own = cfg.data[split]
        if own.path is not None or own.share is not None:
            continue
        if split in named:
            source = cfg.data.train
            same = {"path": source.path, "split": named[split]}
            if source.name is not None:
                same["name"] = source.name
            for key, value in same.items():
                yield Inferred(
                    [f"data.{split}.{key}={literal(str(value))}"],
                    f"data.{split}.{key}={printable(str(value))}",
                    "the splits of data.train.path",
                )
        else:
            whose = "the train rows" if named else "each client's rows"
            yield Inferred(
                [f"data.{split}.share={share}"],
                f"{split} rows: {share:.0%} of {whose}, data.{split}.share={share}",
                "the defaults",
            )


def _named(table: _Table) -> dict[str, str]:
    """Return which of the source's splits are test and validation rows."""
    found = {
        split: next(name for name in names if name in table.splits)
        for split, names in SPLITS.items()
        if any(name in table.splits for name in names)
    }
    return found if "test" in found else {}


def _classes(table: _Table, cfg: DictConfig, typed: set[str]) -> Iterator[Inferred]:
    columns = table.columns
    label = str(cfg.task.label)
    if "task.label" not in typed and label not in columns:
        label = _label(table, cfg, typed)
        yield Inferred([f"task.label={literal(label)}"], f"task.label={label}", "the columns")
    problem, why = _problem(table, cfg, typed, label)
    if problem != cfg.task.problem_type:
        words = f"task.problem_type={problem}"
        yield Inferred([words], words, why)
    own = metrics.PROBLEMS[problem]
    if cfg.target.metric not in own and not {"task.metric", "target.metric"} & typed:
        words = f"task.metric={own[0]}"
        yield Inferred([words], words, f"task.problem_type={problem}")
    if "task.texts" not in typed and not {*map(str, cfg.task.texts)} <= {*columns}:
        found = _texts(table, {label, str(cfg.data.client), *_owner(cfg)})
        written = ", ".join(map(literal, found))
        yield Inferred([f"task.texts=[{written}]"], f"task.texts={', '.join(found)}", "the columns")
    if problem == metrics.REGRESSION:
        if cfg.task.labels and "task.labels" not in typed:
            yield Inferred(["task.labels=[]"], "task.labels=[]", f"task.problem_type={problem}")
    elif "task.labels" not in typed:
        names, source = _labels(table, label, problem == metrics.MULTI)
        known = Labels([*cfg.task.labels], str(cfg.task.label_is), {})
        if names and all(known.name(name) is not None for name in names):
            return  # the labels that conf/ has, or positions in them
        written = ", ".join(map(literal, names))
        shown = f"task.labels={printable(some(names, MOST_SHOWN))}"
        yield Inferred([f"task.labels=[{written}]"], shown, source)


def _problem(table: _Table, cfg: DictConfig, typed: set[str], label: str) -> tuple[str, str]:
    """Return the kind of a classifier's problem, and where it was read if it was."""
    own = str(cfg.task.problem_type)
    said_ = {"task.problem_type", "task.labels", "task.label_is"} & typed
    if said_ or own != metrics.SINGLE or label in cfg.data.formats or label not in table.columns:
        return own, "the options"
    return _held(table, label) or (own, "the options")


def _held(table: _Table, label: str) -> tuple[str, str] | None:
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


def _label(table: _Table, cfg: DictConfig, typed: set[str]) -> str:
    """Return the column of the label: of a usual name, of classes, of what the problem needs, or
    the only one that is left.
    """
    texts = {*map(str, cfg.task.texts)} if "task.texts" in typed else set()
    others = {str(cfg.data.client), *_owner(cfg), *texts}
    names = [name for name in table.columns if name not in others]
    usual = [name for name in names if name.lower() in LABELS]
    usual = usual or [name for name in names if name.lower() in NUMBERS]
    classes = [name for name in names if table.classes(name)]
    problem = str(cfg.task.problem_type)
    needed = [
        name
        for name in names
        if problem != metrics.SINGLE and (_held(table, name) or ("",))[0] == problem
    ]
    left = [name for name in names if texts and not NO_TEXT.fullmatch(name)]
    for found in (usual, classes, needed, left):
        if len(found) == 1:
            return found[0]
    raise ConfigError(
        f"data.train has no column {str(cfg.task.label)!r}; which of its columns is the label? "
        f"{', '.join(usual or classes or names)}: set task.label"
    )


def _owner(cfg: DictConfig) -> set[str]:
    return {str(cfg.data.partitioner.column)} if "column" in cfg.data.partitioner else set()


def _texts(table: _Table, others: set[str], option: str = "task.texts") -> list[str]:
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


def _labels(table: _Table, column: str, lists: bool = False) -> tuple[list[str], str]:
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


def same_rows(cfg: DictConfig) -> str | None:
    """Return a warning if the test rows are those that clients train on."""
    if cfg.data.id != "table" or cfg.data.train.path is None:
        return None
    keys = ("path", "name", "split", "limit")
    train, test = (
        {key: plain(cfg.data[split][key]) for key in keys} for split in ("train", "test")
    )
    if train != test or not Path(str(train["path"])).exists():
        return None
    return (
        f"data.test is {train['path']}, the rows that clients train on: scores will say what the "
        "model remembers, not what it learnt. Leave data.test.path out for a share of each "
        "client's rows"
    )
