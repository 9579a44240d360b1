"""Load PFL-DocVQA, invoices of many providers at ten clients, from a converted folder.

The competition publishes its records as pickled objects. ``fl_app.data.pfl_docvqa_convert`` turns
them into Arrow once. This module reads only Arrow and never imports the converter.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, List, Value
from omegaconf import DictConfig

from fl_app.data.paths import PICTURES, is_converted
from fl_app.data.table import source

SPLITS = ("train", "test")

# One row per question: the competition's batches are questions.
FEATURES = Features(
    {
        "client": Value("int32"),  # -1 in test, whose rows the server holds
        "document": Value("string"),  # the page: its picture's name without .jpg
        "provider": Value("string"),  # "" if data_points.json names none
        "words": List(Value("string")),
        "boxes": List(List(Value("int16"), length=4)),
        "tags": List(Value("int8")),
        "questions": List(Value("string")),
        "fields": List(Value("string")),
        "answers": List(List(Value("string"))),
        "picture": Value("string"),  # file name in PICTURES
    }
)
TOP = 1000  # largest coordinate


def load(cfg_data: DictConfig, seed: int) -> DatasetDict:
    """Load the splits ``train`` (with a column ``client``) and ``test``; there is no ``unseen``.

    Rows are memory-mapped, in the converter's order; ``picture`` is the absolute path of the page's
    picture.

    Parameters
    ----------
    cfg_data : DictConfig
        ``path`` of the converted folder; and ``truncate_boxes``: every coordinate becomes the one
        that the competition's code looks up, 1 at the far edge of the page, else 0.
    seed : int
        Not used.

    Raises
    ------
    FileNotFoundError
        If ``path`` is not a converted folder.
    ValueError
        If its layout is not that of this version's converter.
    """
    return load_folder(cfg_data.path, cfg_data.truncate_boxes, "data.path")


def load_folder(path: str, truncate_boxes: bool, option: str) -> DatasetDict:
    """Load the splits of the converted folder at ``path``, see ``load``.

    Parameters
    ----------
    option : str
        The option that has set ``path``, for messages.
    """
    if not is_converted(path):
        raise FileNotFoundError(
            f"{option}={path} should be the absolute path of a folder written by "
            "`python -m fl_app.data.pfl_docvqa_convert SOURCE OUT`"
        )
    folder = Path(path)
    splits = source(option, path)
    if tuple(splits) != SPLITS or any(splits[s].features != FEATURES for s in SPLITS):
        raise ValueError(
            f"{folder} does not have the layout of this version's converter; convert it again"
        )
    for name in SPLITS:
        # Columns are replaced, not transformed on access: Dataset.to_list() skips transforms.
        table = splits[name].data.table
        names = table["picture"].combine_chunks()
        paths = pc.binary_join_element_wise(str(folder / PICTURES), names, "/")
        splits[name] = _replaced(splits[name], "picture", paths)
        if truncate_boxes:
            boxes = pa.chunked_array([_truncated(c) for c in table["boxes"].chunks])
            splits[name] = _replaced(splits[name], "boxes", boxes)
    return splits


def _replaced(split: Dataset, name: str, column: pa.Array | pa.ChunkedArray) -> Dataset:
    return split.remove_columns(name).add_column(name, column, feature=FEATURES[name])


def _truncated(boxes: pa.ListArray) -> pa.ListArray:
    """Return coordinates of 0..1000 as integers of 0..1.

    The converter rounds down, so that this equals truncating the original coordinates.
    """
    coordinates = pc.divide(boxes.flatten().flatten(), pa.scalar(TOP, pa.int16()))
    ends = np.cumsum(pc.list_value_length(boxes).to_numpy(), dtype=np.int32)
    return pa.ListArray.from_arrays(
        np.concatenate([np.zeros(1, np.int32), ends]),
        pa.FixedSizeListArray.from_arrays(coordinates, 4),
    )
