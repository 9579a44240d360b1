"""What is read from the data of a run on this machine, where the command line does not say it.

Only tables are looked at, and only keys that were not typed. What is found becomes overrides of the
run, so that every process, a resumed run and a stored result have it in words.
"""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from fl_app.config import ConfigError, compose, plain
from fl_app.config.data_only import key_of, parsed
from fl_app.config.shorthand import literal
from fl_app.data.rows import some
from fl_app.faults.printable import printable
from fl_app.preflight.columns import (
    Table,
    label_column,
    label_names,
    owner_columns,
    problem_of,
    text_columns,
)
from fl_app.tasks import metrics
from fl_app.tasks.labels import Labels

SHARES = {"test": 0.2, "validation": 0.1}  # of each client's rows, where nothing else is given
SPLITS = {"test": ("test",), "validation": ("validation", "valid", "val", "dev")}
SHAREGPT = "conversations"
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
    table = Table(cfg)
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
        (column,) = text_columns(table, {str(cfg.data.client), *owner_columns(cfg)}, "task.text")
        yield Inferred([f"task.text={literal(column)}"], f"task.text={column}", "the columns")
    if cfg.task.get("format") == "chat" and "task.messages" not in typed:
        names = table.rows.column_names
        if str(cfg.task.messages) not in names and SHAREGPT in names:
            yield Inferred(
                [f"task.messages={SHAREGPT}"], f"task.messages={SHAREGPT}", "the columns"
            )


def _clients(table: Table, cfg: DictConfig, typed: set[str]) -> Iterator[Inferred]:
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


def _splits(table: Table, cfg: DictConfig) -> Iterator[Inferred]:
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


def _named(table: Table) -> dict[str, str]:
    """Return which of the source's splits are test and validation rows."""
    found = {
        split: next(name for name in names if name in table.splits)
        for split, names in SPLITS.items()
        if any(name in table.splits for name in names)
    }
    return found if "test" in found else {}


def _classes(table: Table, cfg: DictConfig, typed: set[str]) -> Iterator[Inferred]:
    columns = table.columns
    label = str(cfg.task.label)
    if "task.label" not in typed and label not in columns:
        label = label_column(table, cfg, typed)
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
        found = text_columns(table, {label, str(cfg.data.client), *owner_columns(cfg)})
        written = ", ".join(map(literal, found))
        yield Inferred([f"task.texts=[{written}]"], f"task.texts={', '.join(found)}", "the columns")
    if problem == metrics.REGRESSION:
        if cfg.task.labels and "task.labels" not in typed:
            yield Inferred(["task.labels=[]"], "task.labels=[]", f"task.problem_type={problem}")
    elif "task.labels" not in typed:
        names, source = label_names(table, label, problem == metrics.MULTI)
        known = Labels([*cfg.task.labels], str(cfg.task.label_is), {})
        if names and all(known.name(name) is not None for name in names):
            return  # the labels that conf/ has, or positions in them
        written = ", ".join(map(literal, names))
        shown = f"task.labels={printable(some(names, MOST_SHOWN))}"
        yield Inferred([f"task.labels=[{written}]"], shown, source)


def _problem(table: Table, cfg: DictConfig, typed: set[str], label: str) -> tuple[str, str]:
    """Return the kind of a classifier's problem, and where it was read if it was."""
    own = str(cfg.task.problem_type)
    said_ = {"task.problem_type", "task.labels", "task.label_is"} & typed
    if said_ or own != metrics.SINGLE or label in cfg.data.formats or label not in table.columns:
        return own, "the options"
    return problem_of(table, label) or (own, "the options")


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
