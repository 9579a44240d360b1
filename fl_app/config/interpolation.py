"""Interpolation of ``${a.b}`` in a configuration: the value of another key, and nothing else.

OmegaConf's own interpolation also runs resolvers (functions by name that read the environment or
parse text), and interpolates its own results again. Here no function is called and no result is
interpolated again, so that an override cannot request either.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from fl_app.config.keys import ConfigError

PLAIN = re.compile(r"\$\{\.*[\w-]+(?:\.[\w-]+)*\}")  # leading dots: relative to its own key
MOST_NODES = 20_000
MOST_CHARACTERS = 1_000_000


def check_text(key: str, text: str) -> None:
    """Refuse a text that is, or could become, more than plain interpolation.

    Two values that each hold half of a ``${...}`` would form one when they are joined.

    Raises
    ------
    ConfigError
        If it is refused; the message names ``key`` and what is allowed.
    """
    rest = PLAIN.sub("", text)
    joined = rest != text and re.search(r"[$\\{}]", rest)
    if "${" in rest or rest.endswith("$") or joined:
        raise ConfigError(
            f"{key}: only ${{KEY}} of this configuration may be interpolated, such as "
            "${codec.down}: no resolvers (${oc.env:...}, ${now:...}), no escapes, no nesting, and "
            "no $ at the end"
        )


def texts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield ``(key, text)`` for every text in a nested value, including keys of mappings."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield key, str(name)
            yield from texts(f"{key}.{name}" if key else str(name), part)
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from texts(f"{key}.{index}", part)


def resolved(root: dict[str, Any]) -> dict[str, Any]:
    """Return ``root`` with every ``${a.b}`` replaced by the value of that key.

    Raises
    ------
    ConfigError
        For anything but plain interpolation, an unknown key, a cycle, or a result of more than
        ``MOST_NODES`` values or ``MOST_CHARACTERS`` characters.
    """
    for key, text in texts("", root):
        check_text(key, text)
    return dict(_Resolver(root).value(root, ()))


class _Resolver:
    """Does the work of `resolved`, and counts its output: a short text must not become a huge one.

    Attributes
    ----------
    nodes, characters : int
        Values and characters produced so far.
    open : set of tuple
        Paths that are being interpolated, to find cycles.
    """

    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root
        self.nodes = self.characters = 0
        self.open: set[tuple[str, ...]] = set()

    def value(self, node: Any, path: tuple[str, ...]) -> Any:
        """Return ``node``, which stands at ``path``, with all interpolation resolved."""
        self.nodes += 1
        if isinstance(node, dict):
            result: Any = {k: self.value(v, (*path, str(k))) for k, v in node.items()}
        elif isinstance(node, list):
            result = [self.value(v, (*path, str(i))) for i, v in enumerate(node)]
        elif isinstance(node, str) and PLAIN.search(node):
            result = self._interpolated(node, path)
        else:
            result = node
        self.characters += len(result) if isinstance(result, str) else 0
        if self.nodes > MOST_NODES or self.characters > MOST_CHARACTERS:
            raise ConfigError(
                f"{'.'.join(path)}: interpolation makes a configuration of more than {MOST_NODES} "
                f"values or {MOST_CHARACTERS} characters"
            )
        return result

    def _interpolated(self, text: str, path: tuple[str, ...]) -> Any:
        if path in self.open:
            raise ConfigError(f"{'.'.join(path)}={text} refers to itself")
        self.open.add(path)
        try:
            if PLAIN.fullmatch(text):
                return self._follow(text, path)
            return PLAIN.sub(lambda match: str(self._follow(match[0], path)), text)
        finally:
            self.open.remove(path)

    def _follow(self, text: str, path: tuple[str, ...]) -> Any:
        """Return the value of the key that ``${key}`` names, seen from ``path``."""
        key = text[2:-1]
        name = key.lstrip(".")
        up = len(key) - len(name)
        if up > len(path):
            raise ConfigError(f"{'.'.join(path)}={text}: there is no such key")
        target = (*(path[:-up] if up else ()), *name.split("."))
        found = self._find(target, lambda: f"{'.'.join(path)}={text}: there is no such key")
        if found == "???":
            raise ConfigError(f"{'.'.join(path)}={text}: {'.'.join(target)} has no value")
        return found

    def _find(self, target: tuple[str, ...], missing: Callable[[], str]) -> Any:
        node: Any = self.root
        for depth, part in enumerate(target):
            if isinstance(node, str) and PLAIN.search(node):  # a part that is interpolated itself
                node = self._interpolated(node, target[:depth])
            if isinstance(node, dict):
                node = {str(key): value for key, value in node.items()}.get(part, missing)
            elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            else:
                node = missing
            if node is missing:
                raise ConfigError(missing())
        return self.value(node, target)
