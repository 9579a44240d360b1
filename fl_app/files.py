"""Files and folders that exist only whole."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

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


PROJECT = "thinwire"


def installed(relative: str) -> Path:
    """Absolute path of a file or folder of the project, e.g. ``fl_app/models/vt5_tiny``.

    Looks next to the imported package first (a checkout), then in the installed distribution:
    the project's root for an editable install, site-packages for an ordinary one.

    Raises:
        FileNotFoundError: it is in neither place; the message says how to mend that.
    """
    roots = [Path(__file__).resolve().parents[1]]
    with suppress(PackageNotFoundError):
        roots.append(_root(distribution(PROJECT)))
    for root in roots:
        if (root / relative).exists():
            return root / relative
    searched = ", ".join(str(root) for root in roots)
    raise FileNotFoundError(
        f"{relative} of the project {PROJECT} is missing (looked under {searched}); "
        "mend it with `make setup`, or `pip install -e .` in a complete checkout"
    )


def _root(dist: Distribution) -> Path:
    """Folder that holds the distribution's files (direct_url.json: PEP 610)."""
    origin = json.loads(dist.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return Path(url2pathname(urlparse(origin["url"]).path))
    return Path(str(dist.locate_file("")))


def project_root() -> Path:
    """Folder that results go under: the checkout of an editable install, else the current one.

    Not the folder of the imported package, which is Flower's copy while an app runs.
    """
    root = _root(distribution(PROJECT))
    return root if (root / "pyproject.toml").is_file() else Path.cwd()


OTHERS = 0o077  # what group and others might do


def keep_private() -> None:
    """Make the files of this process, and of those it starts, 0600 and their folders 0700.

    What is there already keeps its mode: somebody may share it on purpose.
    """
    os.umask(OTHERS)
