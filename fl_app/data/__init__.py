"""Data sets by config id.

A row of "table" has the columns that the file and its column map give it, which a task names.
A row of "word_problems" has ``instruction``, ``output`` (the working, then "#### 42"), ``kind`` of
story and ``provider``.
A row of the others is one document with questions: ``document`` and ``provider`` (names),
``words`` and ``boxes`` (one ``[x0, y0, x1, y1]`` per word, integers 0..1000), ``tags`` (the field
of each word, 0 = none), ``questions``, ``fields`` (what each asks for) and ``answers`` (the
accepted ones of each). It may have a ``picture`` of its page, an absolute path.
"""

from collections.abc import Callable
from pathlib import Path

from datasets import Dataset, DatasetDict
from omegaconf import DictConfig

from fl_app.data import pfl_docvqa, table, word_problems
from fl_app.data.invoices import load as docvqa_mini
from fl_app.data.partition import client_split, partitioner

__all__ = ["COLUMNS", "LOADERS", "client_split", "load", "own_rows", "partitioner"]

OWN = "the node's data-path"

LOADERS: dict[str, Callable[[DictConfig, int], DatasetDict]] = {
    "docvqa_mini": docvqa_mini.load,
    "pfl_docvqa": pfl_docvqa.load,
    "table": table.load,
    "word_problems": word_problems.load,
}
# What rows can be grouped by, and of which type it is; a table's columns are known when it is read.
COLUMNS: dict[str, dict[str, type]] = {
    "docvqa_mini": {"document": str, "provider": str},
    "pfl_docvqa": {"client": int, "document": str, "provider": str},
    "word_problems": {"kind": str, "provider": str},
}
DOCUMENTS = ("docvqa_mini", "pfl_docvqa")  # whose rows are documents with questions


def load(cfg_data: DictConfig, seed: int) -> DatasetDict:
    """The data set that ``cfg_data.id`` names: splits ``train``, ``test`` and maybe ``unseen`` and
    ``public``.

    ``train`` is what clients hold together, ``test`` what the server scores every model on,
    ``unseen`` what is of another kind, such as documents of providers that no client holds,
    ``public`` what the server may show to anyone.
    ``seed`` is the run's seed.

    Raises:
        ValueError: unknown id; the message lists the known ones.
    """
    if cfg_data.id not in LOADERS:
        raise ValueError(f"unknown data id {cfg_data.id!r}; known: {', '.join(sorted(LOADERS))}")
    return LOADERS[cfg_data.id](cfg_data, seed)


def own_rows(cfg_data: DictConfig, path: str) -> Dataset:
    """The rows that a node has on its own disk, at ``path``, in their order.

    With "table" the path takes the place of ``data.train.path``, and the other options of
    ``data.train`` hold; with "pfl_docvqa" it takes the place of ``data.path``, and all its
    training rows are the node's, whatever client they name. Of another data set, which makes its
    rows, they are read as they are.

    Raises:
        FileNotFoundError: it is no absolute path, or nothing is there.
        ValueError: what is there cannot be read; see the loaders.
    """
    if not Path(path).is_absolute() or not Path(path).exists():
        raise FileNotFoundError(
            f"{OWN}={path!r} should be the absolute path of a file or folder of this machine"
        )
    if cfg_data.id == "pfl_docvqa":
        return pfl_docvqa.load_folder(path, cfg_data.truncate_boxes, OWN)["train"]
    if cfg_data.id == "table":
        train = DictConfig({**cfg_data.train, "path": path, "name": None})
        return table.rows("data.train", train, OWN)
    found = table.source(OWN, path)
    if "train" not in found:
        raise ValueError(f"{OWN}={path!r} has no split train; it has {', '.join(found)}")
    return found["train"]
