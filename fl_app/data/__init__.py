"""Data sets by config id, and the columns of their rows.

- "table": the columns of the file, renamed by its column map. A task names those that it needs.
- "word_problems": ``instruction``, ``output`` (the working, then "#### 42"), ``kind`` of story and
  ``provider``.
- "docvqa_mini" and "pfl_docvqa": one document with questions. ``document`` and ``provider`` are
  names; ``words``; ``boxes``, one ``[x0, y0, x1, y1]`` per word, integers 0..1000; ``tags``, the
  field of each word, 0 for none; ``questions``; ``fields``, the field that each question asks for;
  ``answers``, a list of accepted answers per question. It may have ``picture``, the absolute path
  of a picture of the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from fl_app.config.named import Named
from fl_app.data.partition import client_split, named_clients, partitioner, rows_of_clients

if TYPE_CHECKING:  # the library is imported with the first data set
    from datasets import Dataset, DatasetDict

__all__ = [
    "COLUMNS",
    "LOADERS",
    "client_split",
    "load",
    "named_clients",
    "own_rows",
    "partitioner",
    "rows_of_clients",
]

OWN = "the node's data-path"

LOADERS: Mapping[str, Callable[[DictConfig, int], DatasetDict]] = Named(
    {
        "docvqa_mini": "fl_app.data.invoices.load:load",
        "pfl_docvqa": "fl_app.data.pfl_docvqa:load",
        "table": "fl_app.data.table:load",
        "word_problems": "fl_app.data.word_problems:load",
    }
)
# Columns that rows can be grouped by, and their types; a table's are known only when it is read.
COLUMNS: dict[str, dict[str, type]] = {
    "docvqa_mini": {"document": str, "provider": str},
    "pfl_docvqa": {"client": int, "document": str, "provider": str},
    "word_problems": {"kind": str, "provider": str},
}
DOCUMENTS = ("docvqa_mini", "pfl_docvqa")  # data sets whose rows are documents with questions


def load(cfg_data: DictConfig, seed: int) -> DatasetDict:
    """Load the data set that ``cfg_data.id`` names.

    Parameters
    ----------
    cfg_data : DictConfig
        The ``data`` group of the configuration.
    seed : int
        The run's seed.

    Returns
    -------
    DatasetDict
        ``train``: the rows of all clients together. ``test``: the rows that the server scores every
        model on. If the data set has them, ``validation``: rows that the server scores every model
        on to select a round (see ``fl_app.runs.selection``); ``source``: rows of what the base
        could do before, see ``fl_app.tasks.forgetting``; ``unseen``: rows of another kind, such as
        documents of providers that no client holds; and ``public``: rows that the server may
        show to anyone. All but ``train`` are the server's.

    Raises
    ------
    ValueError
        If the id is unknown; the message lists the known ones. See also the loaders.
    """
    if cfg_data.id not in LOADERS:
        raise ValueError(f"unknown data id {cfg_data.id!r}; known: {', '.join(sorted(LOADERS))}")
    return LOADERS[cfg_data.id](cfg_data, seed)


def own_rows(cfg_data: DictConfig, path: str) -> Dataset:
    """Return the rows that a node has on its own disk, in their order.

    With "table", ``path`` replaces ``data.train.path``, and the other options of ``data.train``
    apply. With "pfl_docvqa" it replaces ``data.path``, and all its training rows belong to the
    node, whatever client they name. For the generated data sets, the rows are read as they are.

    Parameters
    ----------
    cfg_data : DictConfig
        The ``data`` group of the configuration.
    path : str
        Absolute path of a file or folder on this machine.

    Raises
    ------
    FileNotFoundError
        If ``path`` is not absolute or does not exist.
    ValueError
        If it cannot be read; see the loaders.
    """
    if not Path(path).is_absolute() or not Path(path).exists():
        raise FileNotFoundError(
            f"{OWN}={path!r} should be the absolute path of a file or folder of this machine"
        )
    from fl_app.data import pfl_docvqa, table, texts

    if cfg_data.id == "pfl_docvqa":
        return pfl_docvqa.load_folder(path, cfg_data.truncate_boxes, OWN)["train"]
    if cfg_data.id == "table":
        train = DictConfig({**cfg_data.train, "path": path, "name": None})
        return table.rows("data.train", train, OWN, texts.Rules.of(cfg_data))
    found = table.source(OWN, path)
    if "train" not in found:
        raise ValueError(f"{OWN}={path!r} has no split train; it has {', '.join(found)}")
    return found["train"]
