"""Convert PFL-DocVQA, track 1, into Arrow, once::

    python -m fl_app.data.pfl_docvqa_convert SOURCE OUT --i-trust-these-pickles

SOURCE holds, as published:

- ``imdb_train_client_0.npy`` to ``imdb_train_client_9.npy`` and ``imdb_val.npy``: numpy arrays of
  dicts as pickled objects. Record 0 is a header. The others have ``question``, ``answers``,
  ``image_name``, ``ocr_tokens`` and ``ocr_normalized_boxes`` (one [left, top, right, bottom] per
  token, in 0..1); other fields are not read.
- ``data_points.json``: ``client_K`` -> provider -> indices of records. They count the header, so
  they start at 1.
- pictures ``{image_name}.jpg``, in SOURCE or in ``SOURCE/images``.

Known from the competition's public code (github.com/rubenpt91/PFL-DocVQA-Competition): the header,
the fields, how indices count, that tokens and answers are lower-cased, and that a client trains on
its whole file, whether data_points.json lists a record or not. Assumed: that no record has two
providers. The real files were not available.

Reading a pickle executes the code in it. Nothing else in the project reads pickles.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, disable_progress_bars
from datasets.exceptions import DatasetGenerationError
from PIL import Image

from fl_app.data.pfl_docvqa import FEATURES, PICTURES, SPLITS, TOP
from fl_app.files import atomic_folder, keep_private

CLIENTS = 10
SERVER = -1  # the client of a test record
# A box that lies more than this many pages beyond the edge is not an error of the OCR: coordinates
# were not normalized.
FAR = 1.0
NAMED = 5  # pictures that an error names

WARNING = (
    "imdb_*.npy hold pickled objects, and reading them executes the code in them. Convert them "
    "once, from a source that you trust, on a machine that you can lose, and then add "
    "--i-trust-these-pickles"
)


class SourceError(ValueError):
    """A file of the source that is not as published; the message names file and record."""


def convert(source: Path, out: Path, drop_unreadable: bool = False) -> DatasetDict:
    """Write ``out``: a DatasetDict with ``train`` and ``test``, and ``out/pictures``.

    This unpickles ``imdb_*.npy``, which executes the code in them. The records of one file are in
    memory at a time.

    Parameters
    ----------
    source : Path
        The folder of the published files.
    out : Path
        The folder to write.
    drop_unreadable : bool
        Leave out the questions of pages whose picture is missing or broken.

    Returns
    -------
    DatasetDict
        What was written.

    Raises
    ------
    FileExistsError
        If ``out`` exists.
    SourceError
        If a file, record or picture is missing or damaged.
    """
    disable_progress_bars()
    for path in (*(_train_file(source, client) for client in range(CLIENTS)), _test_file(source)):
        if not path.is_file():
            raise SourceError(f"{path} is missing")
    providers = read_providers(source)
    with atomic_folder(out) as folder:
        pictures = Pictures(source, folder / PICTURES, drop_unreadable)
        cache = folder / "cache"

        def train() -> Iterator[dict[str, Any]]:
            for client in range(CLIENTS):
                path = _train_file(source, client)
                yield from rows(path, client, providers[client], pictures.accept)

        def test() -> Iterator[dict[str, Any]]:
            yield from rows(_test_file(source), SERVER, {}, pictures.accept)

        splits = DatasetDict(
            {
                split: _from_rows(generate, f"pfl_docvqa-{split}", cache)
                for split, generate in zip(SPLITS, (train, test), strict=True)
            }
        )
        pictures.report()
        splits.save_to_disk(folder)
        shutil.rmtree(cache)
    return splits


def _train_file(source: Path, client: int) -> Path:
    return source / f"imdb_train_client_{client}.npy"


def _test_file(source: Path) -> Path:
    return source / "imdb_val.npy"


def _from_rows(generate: Callable[[], Iterator[Any]], name: str, cache: Path) -> Dataset:
    try:
        return Dataset.from_generator(
            generate, features=FEATURES, cache_dir=str(cache), fingerprint=name
        )
    except DatasetGenerationError as error:
        raise error.__cause__ or error from None


# ---- records ------------------------------------------------------------------------------------


def read_providers(source: Path) -> list[dict[int, str]]:
    """Return, for each client, the provider of every record that data_points.json lists.

    Raises
    ------
    SourceError
        If the file is missing, or is not a mapping client -> provider -> indices.
    """
    path = source / "data_points.json"
    try:
        data_points = json.loads(path.read_text())
    except FileNotFoundError:
        raise SourceError(f"{path} is missing") from None
    except ValueError as error:
        raise SourceError(f"{path} is not JSON: {error}") from None
    found: list[dict[int, str]] = []
    for client in range(CLIENTS):
        of = data_points.get(f"client_{client}") if isinstance(data_points, dict) else None
        if not isinstance(of, dict):
            raise SourceError(f"{path} has no providers of client_{client}")
        found.append({})
        for provider, indices in of.items():
            where = f"{path}: client_{client}, provider {provider!r}"
            if not isinstance(indices, list) or not all(type(i) is int for i in indices):
                raise SourceError(f"{where} should be a list of record indices")
            for index in indices:
                if index < 1:
                    raise SourceError(f"{where} lists {index}; record 0 is the header")
                if index in found[client]:
                    raise SourceError(f"{where} lists {index}, as {found[client][index]!r} does")
                found[client][index] = provider
    return found


def rows(
    path: Path, client: int, providers: dict[int, str], accept: Callable[[str], bool]
) -> Iterator[dict[str, Any]]:
    """Yield the records of one file, without the header, as rows of ``FEATURES``.

    Parameters
    ----------
    path : Path
        The ``.npy`` file.
    client : int
        The client that holds it.
    providers : dict
        Record index -> provider; a record that is not listed has none.
    accept : callable
        Tells whether questions on a page are taken.

    Raises
    ------
    SourceError
        If the file or one of its records is not as published.
    """
    records = _unpickled(path)
    last = max(providers, default=0)
    if last >= len(records):
        raise SourceError(
            f"data_points.json lists record {last} of {path}, whose last is {len(records) - 1}"
        )
    kept = 0
    for index in range(1, len(records)):
        try:
            row = _row(records[index], client, providers.get(index, ""))
        except (KeyError, TypeError, ValueError) as error:
            text = f"no field {error}" if isinstance(error, KeyError) else error
            raise SourceError(f"{path}, record {index}: {text}") from None
        if accept(row["document"]):
            kept += 1
            yield row
    if kept == 0:
        raise SourceError(f"{path} holds no question on a page with a readable picture")
    print(f"{path.name}: {kept:,} of {len(records) - 1:,} questions", flush=True)


def _unpickled(path: Path) -> np.ndarray:
    """Return the records of a file, header first. THIS EXECUTES THE CODE IN THE FILE."""
    try:
        records = np.load(path, allow_pickle=True)
    except Exception as error:  # unpickling raises anything
        raise SourceError(f"{path} cannot be read as a numpy array of records: {error}") from None
    if not isinstance(records, np.ndarray) or records.ndim != 1 or len(records) == 0:
        raise SourceError(f"{path} should hold a one-dimensional numpy array of records")
    if not isinstance(records[0], dict) or "question" in records[0]:
        raise SourceError(f"{path}, record 0: should be the header, a dict without a question")
    return records


def _row(record: Any, client: int, provider: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise TypeError(f"should be a dict, not {type(record).__name__}")
    words = _texts(record["ocr_tokens"], "ocr_tokens")
    answers = _texts(record["answers"], "answers")
    question, document = _texts([record["question"], record["image_name"]], "question, image_name")
    boxes = to_thousandths(record["ocr_normalized_boxes"])
    if len(boxes) != len(words):
        raise ValueError(f"{len(words)} ocr_tokens, {len(boxes)} ocr_normalized_boxes")
    if not answers:
        raise ValueError("no answers")
    if document in ("", ".", "..") or any(c in document for c in "/\\\0"):
        raise ValueError(f"image_name {document!r} should be a file's name")
    return {
        "client": client,
        "document": document,
        "provider": provider,
        "words": [word.lower() for word in words],
        "boxes": boxes,
        "tags": [0] * len(words),
        "questions": [question],
        "fields": [""],
        "answers": [list(dict.fromkeys(answer.lower() for answer in answers))],
        "picture": f"{document}.jpg",
    }


def _texts(values: Any, name: str) -> list[str]:
    if not isinstance(values, (list, tuple, np.ndarray)):
        raise TypeError(f"{name} should be a list, not {type(values).__name__}")
    if not all(isinstance(value, str) for value in values):
        raise TypeError(f"{name} should hold strings only")
    return [str(value) for value in values]  # numpy's strings become Python's


def to_thousandths(boxes: Any) -> np.ndarray:
    """Return boxes [n, 4] in 0..1 as integers in 0..1000, rounded down and clipped to the page.

    They are rounded down so that ``// 1000`` equals truncating the original boxes.

    Returns
    -------
    ndarray
        [n, 4], int16.

    Raises
    ------
    ValueError
        If the shape is not [n, 4], a value is not finite, or a box is so far off the page that it
        was not normalized.
    """
    normalized = np.asarray(boxes if len(boxes) else np.empty((0, 4)), dtype=np.float64)
    if normalized.ndim != 2 or normalized.shape[1] != 4:
        raise ValueError(f"ocr_normalized_boxes of shape {normalized.shape} should be [n, 4]")
    if not np.isfinite(normalized).all():
        raise ValueError("ocr_normalized_boxes should be finite")
    if ((normalized < -FAR) | (normalized > 1 + FAR)).any():
        worst = normalized.flat[np.abs(normalized).argmax()]
        raise ValueError(f"ocr_normalized_boxes should be in 0..1, but one is {worst}")
    return np.clip(np.floor(normalized * TOP), 0, TOP).astype(np.int16)


# ---- pictures -----------------------------------------------------------------------------------


class Pictures:
    """Finds the pages' pictures, reads each once to check it, and puts them into ``out``.

    Parameters
    ----------
    source : Path
        The folder to search, with its ``images``.
    out : Path
        The folder to make.
    drop_unreadable : bool
        Do not accept pages whose picture is missing or broken.
    """

    def __init__(self, source: Path, out: Path, drop_unreadable: bool) -> None:
        self.folders = (source, source / "images")
        self.out = out
        self.drop_unreadable = drop_unreadable
        self.found: dict[str, bool] = {}
        if not any(path for folder in self.folders for path in folder.glob("*.jpg")):
            raise SourceError(f"no pictures (*.jpg) in {source} or {source / 'images'}")
        out.mkdir()

    def accept(self, document: str) -> bool:
        """Put the page's picture into ``out``; tell whether to take questions on the page."""
        if document not in self.found:
            self.found[document] = self._put(f"{document}.jpg")
        return self.found[document] or not self.drop_unreadable

    def _put(self, name: str) -> bool:
        path = next((f / name for f in self.folders if (f / name).is_file()), None)
        if path is None or not _is_readable(path):
            return False
        try:
            os.link(path.resolve(), self.out / name)
        except OSError:  # another file system, or one without links
            shutil.copyfile(path, self.out / name)
        return True

    def report(self) -> None:
        """Print which pages had no readable picture.

        Raises
        ------
        SourceError
            If there are any, and they are not dropped.
        """
        lost = [document for document, found in self.found.items() if not found]
        if not lost:
            return
        named = ", ".join(f"{document}.jpg" for document in lost[:NAMED])
        text = (
            f"{len(lost):,} of {len(self.found):,} pictures are missing or cannot be read: {named}"
            f"{', ...' if len(lost) > NAMED else ''}"
        )
        if not self.drop_unreadable:
            raise SourceError(
                f"{text}. Download them again, or leave out their questions with "
                "--drop-unreadable-pictures"
            )
        print(f"{text}; their questions are left out", flush=True)


def _is_readable(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.draft("RGB", (1, 1))  # reads the whole file, but decodes only 1/8 of each side
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fl_app.data.pfl_docvqa_convert",
        description="convert PFL-DocVQA, track 1, into Arrow",
    )
    parser.add_argument("source", type=Path, help="folder of the published files")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument(
        "--i-trust-these-pickles",
        action="store_true",
        help="read imdb_*.npy, which executes the code in them",
    )
    parser.add_argument(
        "--drop-unreadable-pictures",
        action="store_true",
        help="leave out the questions of pages whose picture is missing or broken",
    )
    given = parser.parse_args(arguments)
    if not given.i_trust_these_pickles:
        print(WARNING, file=sys.stderr)
        return 2
    keep_private()
    try:
        splits = convert(given.source, given.out, given.drop_unreadable_pictures)
    except (SourceError, FileExistsError) as error:
        print(error, file=sys.stderr)
        return 1
    sizes = ", ".join(f"{len(splits[split]):,} questions to {split}" for split in SPLITS)
    print(f"{given.out.resolve()}: {sizes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
