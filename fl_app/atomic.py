"""A folder that exists only whole."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to write in; it becomes ``path`` when the block ends, and is gone if it raises.

    It lies beside ``path``, so that the last step is a rename.

    Raises:
        FileExistsError: there is something at ``path``.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists: choose another name, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        folder = Path(scratch) / path.name  # in it: the temporary folder is for its owner's eyes
        folder.mkdir()
        yield folder
        folder.rename(path)
