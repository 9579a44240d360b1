"""Load rows of tables as they are written, and rename their columns.

A source is a CSV, JSON, JSON Lines, Parquet or plain text file, a folder of such files, a folder
written by ``save_to_disk``, or a data set of the hub in one of these formats. A source cannot bring
code: ``datasets`` runs no scripts since version 4, other formats are refused, and nothing is
unpickled.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, List, ReadInstruction, Value
from omegaconf import DictConfig

from fl_app.config import SPLITS, plain
from fl_app.data import kept, sources
from fl_app.data.columns import check_known, new_names
from fl_app.data.owners import rows_by
from fl_app.data.paths import is_source
from fl_app.data.random_streams import generator
from fl_app.data.rows import first
from fl_app.data.texts import Rules, kinds
from fl_app.faults import FaultError

REQUIRED = ("test",)
DRAWS = {"validation": 20, "test": 21}  # streams of data.seed, apart from its other uses


def load(cfg_data: DictConfig, seed: int) -> DatasetDict:
    """Load the splits ``test`` and, if they are configured, the others of ``SPLITS``.

    A column of class numbers becomes a column of their names, null for a number without one (-1).
    Floats, dates, booleans and missing values become texts where ``formats`` and ``empty`` say how.

    With ``test.share`` or ``validation.share`` that share of the train rows is the split instead;
    with ``test.share``, both are drawn client by client where a column says whose a row is. They
    are drawn by ``cfg_data.seed`` alone, so that every machine leaves the same rows out of
    ``train``; a node with rows of its own keeps them all.

    Parameters
    ----------
    cfg_data : DictConfig
        For each split: ``path`` (null: no such split; ``test`` needs one, ``train`` unless every
        node has its own rows), ``name`` (the configuration of a data set that has several; null
        for a file), ``split`` (of the source, with slices such as "train[:90%]"), ``columns`` (the
        source's name -> the new name; others keep theirs), ``drop`` (a column, by its new name ->
        the values whose rows are left out) and ``limit`` (how many of the first rows are kept;
        null: all). For all splits together: ``formats``, ``empty`` and
        ``sample_by``, see ``fl_app.data.texts``.
    seed : int
        Not used.

    Raises
    ------
    FileNotFoundError
        If a file, folder or data set of the hub does not exist or cannot be reached.
    ValueError
        If its format is not supported, it cannot be read, a split or column does not exist, or no
        row is left.
    """
    rules = Rules.of(cfg_data)
    drawn = cfg_data.test.share is not None
    found = DatasetDict(
        {
            split: rows(f"data.{split}", cfg_data[split], f"data.{split}.path", rules)
            for split in SPLITS
            if cfg_data[split].path is not None or (split in REQUIRED and not drawn)
        }
    )
    known = {name for one in found.values() for name in one.column_names}
    for key, columns in (("formats", rules.formats), ("empty", rules.empty)):
        check_known(f"data.{key}", sorted(known), columns)
    owner = cfg_data.partitioner.get("column") if drawn else None
    if drawn:
        found["train"], found["test"] = _shared(
            found["train"], "test", cfg_data.test.share, cfg_data.seed, owner
        )
    if cfg_data.validation.share is not None:
        found["train"], found["validation"] = _shared(
            found["train"], "validation", cfg_data.validation.share, cfg_data.seed, owner
        )
    return found


def _shared(
    train: Dataset, split: str, share: float, seed: int, owner: str | None
) -> tuple[Dataset, Dataset]:
    """Return what is left of the train rows, and the share that is drawn, both in their order.

    Parameters
    ----------
    owner : str or None
        The column by whose values rows are divided among clients: the share of each is drawn.

    Raises
    ------
    FaultError
        If one of the two would be empty, or ``owner`` is no such column.
    """
    groups = [list(range(len(train)))] if owner is None else [*rows_by(train, owner).values()]
    place = {row: at for at, row in enumerate(_order(len(train), DRAWS[split], seed))}
    drawn = {
        row
        for group in groups
        for row in sorted(group, key=place.__getitem__)[: _taken(share, len(group), owner)]
    }
    if not 0 < len(drawn) < len(train):
        raise FaultError(
            "no_rows",
            f"data.{split}.share={share} of {len(train)} train rows leaves no row for "
            f"{'train' if drawn else split}",
        )
    left = [row for row in range(len(train)) if row not in drawn]
    return train.select(left), train.select(sorted(drawn))


def _taken(share: float, rows: int, owner: str | None) -> int:
    """Return how many of a client's rows are drawn: one at least stays, so that it stays one."""
    return round(share * rows) if owner is None else min(round(share * rows), rows - 1)


def _order(rows: int, stream: int, seed: int) -> list[int]:
    """Return the order in which rows are drawn."""
    return generator(seed, stream).permutation(rows).tolist()


def rows(key: str, cfg: DictConfig, option: str, rules: Rules) -> Dataset:
    """Return the rows of one split.

    Parameters
    ----------
    key : str
        The split's key in the configuration, for messages.
    cfg : DictConfig
        Its options, see ``load``.
    option : str
        The option that has set ``cfg.path``, for messages.
    rules : Rules
        How values that are no texts are written.

    Raises
    ------
    FileNotFoundError, ValueError
        See ``load``.
    """
    if not is_source(cfg.path):
        raise FileNotFoundError(
            f"{option}={cfg.path!r} should be the absolute path of a file or folder that "
            "exists, or the id of a data set of the hub"
        )
    found = _split(key, cfg.split, source(option, cfg.path, cfg.name, rules.sample_by))
    found = _renamed(key, with_class_names(found), plain(cfg.columns))
    found = _without(key, found, plain(cfg.drop))
    if cfg.limit is not None:
        found = first(found, cfg.limit)
    if not len(found):
        raise FaultError(
            "no_rows",
            f"{key} has no rows: {cfg.path!r}, split {cfg.split!r}, after {key}.drop={cfg.drop}",
        )
    return rules.applied(found)


def source(
    option: str, path: str, name: str | None = None, sample_by: str = sources.PARAGRAPH
) -> DatasetDict:
    """Return all splits of a source, under its own names.

    Parameters
    ----------
    option : str
        The option that has set ``path``, for messages.
    path, name, sample_by : str
        See ``load``.

    Raises
    ------
    FileNotFoundError, ValueError
        See ``load``.
    """
    with sources.readable(option, path):
        found = sources.find(option, path, name, sample_by)
        return DatasetDict(
            {
                split: kept.rows(found.reader, files, found.declared)
                for split, files in found.files.items()
            }
        )


def _split(key: str, wanted: str, found: DatasetDict) -> Dataset:
    try:
        (chosen,) = ReadInstruction.from_spec(wanted).to_absolute(
            {name: len(rows) for name, rows in found.items()}
        )
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"{key}.split={wanted!r} should be one of {', '.join(found)}, or a part of it such as "
            f"{next(iter(found))}[:90%] ({error})"
        ) from None
    rows = found[chosen.splitname]
    return rows.select(range(chosen.from_ or 0, len(rows) if chosen.to is None else chosen.to))


def with_class_names(rows: Dataset) -> Dataset:
    """Return rows with the names of classes instead of their numbers."""
    for column, feature in rows.features.items():
        if known := class_names(feature):
            is_list = isinstance(feature, List)
            named = [_named(value, known) for value in rows[column][:]]
            kind = List(Value("string")) if is_list else Value("string")
            rows = rows.remove_columns(column).add_column(column, named, feature=kind)
    return rows


def class_names(feature: Any) -> list[str]:
    """Return the names of a ClassLabel, or of a list of them; none for another feature."""
    one = feature.feature if isinstance(feature, List) else feature
    return list(one.names or ()) if isinstance(one, ClassLabel) else []


def _named(value: Any, known: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, known) for one in value]
    return known[value] if value is not None and 0 <= value < len(known) else None


def _renamed(key: str, rows: Dataset, columns: Mapping[str, str]) -> Dataset:
    names = new_names(key, rows.column_names, columns)
    renamed = {old: new for old, new in zip(rows.column_names, names, strict=True) if old != new}
    return rows.rename_columns(renamed) if renamed else rows


def _without(key: str, rows: Dataset, drop: Mapping[str, Any]) -> Dataset:
    check_known(f"{key}.drop", rows.column_names, drop)
    for column, values in drop.items():
        unwanted = values if isinstance(values, list) else [values]
        are_texts = kinds(rows, column) == {"strings"}
        odd = [value for value in unwanted if isinstance(value, bool | float)]
        if are_texts and odd:
            raise ValueError(
                f"{key}.drop.{column} names {odd[0]!r}, and the column holds texts: quote it as it "
                f"""is written, such as {key}.drop.{column}="['1.50']" """.rstrip()
            )
        found = rows[column][:]
        kept_ = [i for i, value in enumerate(found) if not _is_one_of(value, unwanted)]
        rows = rows.select(kept_)
    return rows


def _is_one_of(value: Any, unwanted: Sequence[Any]) -> bool:
    """Tell whether a value is one of those that the configuration names.

    The number 7 there means the text 7 too, and true no number.
    """
    return any(
        (isinstance(value, bool) == isinstance(one, bool) and value == one)
        or (isinstance(value, str) and type(one) is int and value == str(one))
        for one in unwanted
    )
