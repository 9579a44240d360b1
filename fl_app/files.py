"""Files and folders that are written completely or not at all, and where the project is."""

import json
import os
import shutil
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
    """Yield a folder to write in; it becomes ``path`` if the block ends without an error.

    The folder lies beside ``path``, so that the last step is a rename. After an error it is
    removed.

    Raises
    ------
    FileExistsError
        If ``path`` exists.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists: choose another name, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        # One level down: the temporary folder itself is always 0700, whatever the umask.
        folder = Path(scratch) / path.name
        folder.mkdir(mode=0o700)
        yield folder
        folder.rename(path)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to write in; it takes the place of ``path`` if the block ends without error.

    The old folder stays until the new one is on disk. What a process has left that was killed in
    between is removed by the next call. One process may call it for a path at a time.

    Raises
    ------
    OSError
        If it cannot be written, as on a full disk; the old folder is still there.
    """
    prefix = f".{path.name}.partial-"
    for left in path.parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as scratch:
        folder = Path(scratch) / path.name
        folder.mkdir(mode=0o700)
        yield folder
        for file in folder.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        if path.exists():
            path.rename(Path(scratch) / "old")
        folder.rename(path)


def atomic_file(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, readable by its owner only (mode 0600).

    The old content stays until the new content is on disk, also if the power fails.

    Raises
    ------
    OSError
        If it cannot be written, as on a full disk; the old file is still there.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with os.fdopen(os.open(partial, WRITE, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        partial.unlink(missing_ok=True)  # free the space for the log and the summary
        raise
    partial.rename(path)


PROJECT = "thinwire"


def installed(relative: str) -> Path:
    """Return the absolute path of a file or folder of the project.

    The folder of the imported package is searched first (a checkout), then the installed
    distribution: the project's root for an editable install, site-packages for an ordinary one.

    Parameters
    ----------
    relative : str
        Path below the project's root, such as ``fl_app/models/vt5_tiny``.

    Raises
    ------
    FileNotFoundError
        If it is in neither place; the message says how to repair the installation.
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
        "repair it with `make setup`, or `pip install -e .` in a complete checkout"
    )


def _root(dist: Distribution) -> Path:
    """Return the folder that holds the distribution's files (direct_url.json: PEP 610)."""
    origin = json.loads(dist.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return Path(url2pathname(urlparse(origin["url"]).path))
    return Path(str(dist.locate_file("")))


RESULTS = "THINWIRE_RESULTS"  # environment variable: where the processes of a run put results


def project_root() -> Path:
    """Return the folder for results: the checkout of an editable install, else the current one.

    The processes of a run, which have other current folders, are told by ``RESULTS``.
    """
    if told := os.environ.get(RESULTS):
        return Path(told)
    root = _root(distribution(PROJECT))
    return root if (root / "pyproject.toml").is_file() else Path.cwd()


def existing(path: Path) -> Path:
    """Return an absolute path, or the next one above it that exists."""
    return next(one for one in (path, *path.parents) if one.exists())


OTHERS = 0o077  # the permissions of group and others


def keep_private() -> None:
    """Make new files of this process and of its children 0600, and new folders 0700.

    Existing files keep their mode: somebody may share them on purpose.
    """
    os.umask(OTHERS)


@contextmanager
def kept_private() -> Iterator[None]:
    """Do what `keep_private` does for as long as the block lasts."""
    before = os.umask(OTHERS)
    try:
        yield
    finally:
        os.umask(before)
