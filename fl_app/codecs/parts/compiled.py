"""``jit``: numba where it is there, the plain function where it is not; compiled once a machine.

Flower unpacks an app into another folder for every run, so numba's own cache, which goes by the
path of the source, would never be hit. Here it goes by content: the kernels of one state of this
package live in ``$XDG_CACHE_HOME/thinwire/<digest>`` (``~/.cache`` by default). Numba adds Python,
its own version, the argument types, the CPU's name and features to the key. The folder may be
deleted at any time.
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

try:
    import numba
    from numba.core import caching
except ImportError:  # the numpy versions serve alone
    numba = None  # type: ignore[assignment]

_PACKAGE = Path(__file__).parents[1]


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``function`` at its first call, without holding the interpreter's lock in it."""
    if numba is None:
        return function
    kernel: Any = numba.njit(function, nogil=True, error_model="numpy")
    with contextlib.suppress(RuntimeError):  # no folder to cache in: compile once a process
        kernel._cache = _Cache(function)
    return kernel


def cache_root() -> Path | None:
    """Return this user's private cache folder, made if need be; None where there is none.

    The entries are pickles and machine code: whoever can write them runs code as this user, so a
    folder of somebody else, or open to others, is not used.
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
    # Of the whole package, not of one file: a kernel takes in constants and kernels of others.
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(_PACKAGE).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


if numba is not None:

    class _Locator(caching._CacheLocator):
        """Where a kernel is cached: by the digest of this package, whatever its path and times."""

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
        """A cache that is never the reason why a run fails: full disk, damaged or removed file."""

        _impl_class = _Impl  # type: ignore[assignment]

        def load_overload(self, sig: Any, target_context: Any) -> Any:
            try:
                return super().load_overload(sig, target_context)
            except Exception:  # what a damaged file raises may be anything
                return None

        def save_overload(self, sig: Any, data: Any) -> None:
            with contextlib.suppress(Exception):
                super().save_overload(sig, data)
