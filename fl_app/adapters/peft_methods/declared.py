"""What the installed PEFT declares: its methods, and the fields of their config classes.

It is read from PEFT's source as text. Importing PEFT takes seconds and imports torch, and a
misspelt argument should be refused before that.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

REGISTER = "register_peft_method"
COMMON = "PeftConfig"  # the base of all config classes: what Thinwire sets itself


@dataclass(frozen=True)
class Field:
    """A field of a config class.

    Attributes
    ----------
    annotation : ast.expr
        The type that it declares.
    owner : str
        The class that declares it.
    """

    annotation: ast.expr
    owner: str

    @property
    def words(self) -> str:
        """Return the type as it is written, in one line."""
        return " ".join(ast.unparse(self.annotation).split())


@cache
def methods() -> dict[str, str]:
    """Return the config class of every method of PEFT's registry, by the method's name."""
    found = {}
    for path in sorted(_tuners().glob("*/__init__.py")):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == REGISTER:
                said = {one.arg: one.value for one in node.keywords}
                name, kind = said.get("name"), said.get("config_cls")
                if isinstance(name, ast.Constant) and isinstance(kind, ast.Name):
                    found[str(name.value).upper()] = kind.id
    return found


@cache
def fields(method: str) -> dict[str, Field]:
    """Return the arguments of a method's config class, those of its bases first.

    Parameters
    ----------
    method : str
        A name of `methods`.
    """
    return dict(_fields(methods()[method]))


def is_prompt_learning(method: str) -> bool:
    """Tell whether a method adds virtual tokens, and leaves the model's modules as they are."""
    return any(field.owner == "PromptLearningConfig" for field in fields(method).values())


def accepts(annotation: ast.expr, value: Any) -> bool:
    """Tell whether a plain value is of a declared type.

    Whole numbers are accepted for ``float``; no class but these of Python has plain values.
    """
    match annotation:
        case ast.Constant(value=None):
            return value is None
        case ast.Constant(value=str(text)):  # a type that is written in quotes
            return accepts(ast.parse(text, mode="eval").body, value)
        case ast.BinOp(left=left, right=right):
            return accepts(left, value) or accepts(right, value)
        case ast.Subscript(value=outer, slice=inner):
            return _accepts_generic(_name(outer), _parts(inner), value)
        case _:
            return _accepts_plain(_name(annotation), value)


def choices(annotation: ast.expr) -> list[str]:
    """Return the texts that a type lists one by one."""
    return [
        str(one.value)
        for node in ast.walk(annotation)
        if isinstance(node, ast.Subscript) and _name(node.value) == "Literal"
        for one in _parts(node.slice)
        if isinstance(one, ast.Constant) and isinstance(one.value, str)
    ]


def _accepts_plain(name: str, value: Any) -> bool:
    if name in ("bool", "str", "dict", "list"):
        return type(value).__name__ == name
    if name == "int":
        return type(value) is int
    return name == "float" and type(value) in (int, float)


def _accepts_generic(name: str, parts: list[ast.expr], value: Any) -> bool:
    if name == "Literal":
        values = [one.value for one in parts if isinstance(one, ast.Constant)]
        return any(type(one) is type(value) and one == value for one in values)
    if name in ("Optional", "Union"):
        return (name == "Optional" and value is None) or any(accepts(one, value) for one in parts)
    if name == "list":
        return isinstance(value, list) and all(accepts(parts[0], one) for one in value)
    if name == "dict":
        return isinstance(value, dict) and all(
            accepts(parts[0], key) and accepts(parts[1], one) for key, one in value.items()
        )
    return False


def _fields(kind: str) -> Iterator[tuple[str, Field]]:
    found = _classes().get(kind)
    if found is None:
        return
    for base in found.bases:
        yield from _fields(_name(base))
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, Field(node.annotation, kind)


@cache
def _classes() -> dict[str, ast.ClassDef]:
    """Return the classes of the files that declare configs, by name."""
    tuners = _tuners()
    paths = [tuners.parent / "config.py", tuners / "lycoris_utils.py", *tuners.glob("*/config.py")]
    return {
        node.name: node
        for path in paths
        for node in _tree(path).body
        if isinstance(node, ast.ClassDef)
    }


def _parts(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _tuners() -> Path:
    spec = find_spec("peft")  # which imports nothing
    return Path(str(spec and spec.origin)).parent / "tuners"


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
