"""Objects by the name that a configuration gives them, imported when they are first looked up."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")


class Named(Mapping[str, T]):
    """A mapping whose names are known before any of its values is imported.

    A misspelt name can therefore be refused without torch, which most of the values import.

    Parameters
    ----------
    places : mapping of str to str
        Name -> ``module`` or ``module:attribute``.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = dict(places)

    def __getitem__(self, name: str) -> T:
        """Import the value of ``name``, and return it; KeyError if there is no such name."""
        module, _, attribute = self._places[name].partition(":")
        found: Any = import_module(module)
        return getattr(found, attribute) if attribute else found

    def __contains__(self, name: object) -> bool:
        """Tell whether there is such a name; nothing is imported."""
        return isinstance(name, str) and name in self._places

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._places)

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._places)
