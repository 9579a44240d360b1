"""``jit``: numba where it is installed, the plain function where not; compiled once a machine.

Flower unpacks an app into another folder for every run, so numba's own cache, whose key is the path
of the source, would never be hit. Here the key is the content: the kernels of one version of this
package are in ``$XDG_CACHE_HOME/thinwire/<digest>`` (``~/.cache`` by default). Numba adds the
versions of Python and its own, the argument types, the CPU's name and features to the key. The
folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

try:
    import numba
    from numba.core import caching
except ImportError:  # the numpy versions serve instead
    numba = None  # type: ignore[assignment]

_PACKAGE = Path(__file__).parents[1]


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``function`` at its first call; while it runs, it does not hold Python's lock."""
    if numba is None:
        return function
    kernel: Any = numba.njit(function, nogil=True, error_model="numpy")
    with contextlib.suppress(RuntimeError):  # no folder for a cache: compiled once a process
        kernel._cache = _Cache(function)
    return kernel


def run(kernel: Callable[..., Any], *args: Any) -> Any:
    """Call a function that went through `jit`, one that loops over integers that never overflow.

    Without numba it gets the buffers of its arrays, whose items are Python's own integers, and
    which are faster to loop over.
    """
    if hasattr(kernel, "py_func"):
        return kernel(*args)
    return kernel(*(a.data if isinstance(a, np.ndarray) else a for a in args))


def cache_root() -> Path | None:
    """Return this user's private cache folder, created if missing; None where there is none.

    The entries are pickles and machine code: whoever can write them runs code as this user, so a
    folder that belongs to or is open to others is not used.
    """
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME", ""))
        root = (home if home.is_absolute() else Path.home() / ".cache") / "thinwire"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = root.lstat()
    except (OSError, RuntimeError):  # RuntimeError: no home
        return None
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    return root if private and hasattr(os, "getuid") and found.st_uid == os.getuid() else None


@functools.cache
def _digest() -> str:
    # Of the whole package, not of one file: a kernel contains constants and kernels of others.
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(_PACKAGE).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


if numba is not None:

    class _Locator(caching._CacheLocator):
        """Where a kernel is cached: by the digest of this package, not its path and times."""

        def __init__(self, root: Path, line: int) -> None:
            self._path, self._line = root / _digest()[:32], line

        def get_cache_path(self) -> str:
            return str(self._path)

        def ensure_cache_path(self) -> None:
            self._path.mkdir(mode=0o700, exist_ok=True)
            tempfile.TemporaryFile(dir=self._path).close()

        def get_source_stamp(self) -> str:
            return _digest()

        def get_disambiguator(self) -> str:
            return str(self._line)

        @classmethod
        def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator | None:
            root = cache_root()
            if root is None or _PACKAGE not in Path(py_file).parents:
                return None
            try:
                locator = cls(root, py_func.__code__.co_firstlineno)
                locator.ensure_cache_path()
            except OSError:
                return None
            return locator

    class _Impl(caching.CompileResultCacheImpl):
        _locator_classes = (_Locator,)  # type: ignore[assignment]

    class _Cache(caching.Cache):
        """A cache that never makes a run fail: not by a full disk or a damaged or missing file."""

        _impl_class = _Impl  # type: ignore[assignment]

        def load_overload(self, sig: Any, target_context: Any) -> Any:
            try:
                return super().load_overload(sig, target_context)
            except Exception:  # a damaged file may raise anything
                return None

        def save_overload(self, sig: Any, data: Any) -> None:
            with contextlib.suppress(Exception):
                super().save_overload(sig, data)
