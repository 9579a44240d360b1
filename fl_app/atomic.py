"""Files and folders that exist only whole."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


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
        folder.mkdir(mode=0o700)
        yield folder
        folder.rename(path)


def atomic_file(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, for its owner alone.

    The old content is there until the new one is, also if the power fails.

    Raises:
        OSError: the disk is full; the old file is still there.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with os.fdopen(os.open(partial, WRITE, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        partial.unlink(missing_ok=True)  # what room there is, is for what says so
        raise
    partial.rename(path)
