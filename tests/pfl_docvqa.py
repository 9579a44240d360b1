"""Write small files in the format of PFL-DocVQA, track 1: pickled .npy, header, pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLIENTS = 10
HEADER = {"creation_time": "", "version": "1", "dataset_type": "train", "has_answer": True}


def record(page: str, total: int) -> dict[str, Any]:
    """Return a record: a question about a page of three words."""
    return {
        "question": "What is the total?",
        "answers": [f"EUR {total}", f"eur {total}", str(total)],
        "image_name": page,
        "ocr_tokens": ["Total", "EUR", str(total)],
        "ocr_normalized_boxes": np.array(
            [[0.1, 0.2, 0.2, 0.25], [0.5, 0.2, 0.58, 0.25], [0.6, 0.2, 0.9996, 1.0]]
        ),
        "set_name": "train",
    }


def write_records(path: Path, records: list[Any], header: Any = HEADER) -> None:
    """Write a pickled .npy of records."""
    array = np.empty(1 + len(records), dtype=object)
    array[:] = [header, *records]
    np.save(path, array, allow_pickle=True)


def write_picture(path: Path) -> None:
    """Write a small JPEG of noise."""
    Image.effect_noise((64, 83), 80).convert("RGB").save(path)


def write(source: Path) -> dict[str, dict[str, list[int]]]:
    """Write a source with ten clients, each with three questions on two pages.

    Return the content of data_points.json.
    """
    (source / "images").mkdir(parents=True)
    data_points = {}
    for client in range(CLIENTS):
        pages = [f"doc{client}a_0", f"doc{client}a_0", f"doc{client}b_1"]
        records = [record(page, 100 * client + k) for k, page in enumerate(pages)]
        write_records(source / f"imdb_train_client_{client}.npy", records)
        data_points[f"client_{client}"] = {f"provider{client}a": [1, 2], f"provider{client}b": [3]}
        for page in {*pages}:
            write_picture(source / "images" / f"{page}.jpg")
    write_records(source / "imdb_val.npy", [record("val_0", 7), record("val_0", 8)])
    write_picture(source / "val_0.jpg")  # beside the records: both folders are searched
    (source / "data_points.json").write_text(json.dumps(data_points))
    return data_points
