"""The rules of ``adapter=peft``, see ``fl_app.adapters``: its method, and their arguments."""

import ast
from typing import Any

from omegaconf import DictConfig

from fl_app.adapters.peft_methods import declared, support
from fl_app.config import ConfigError, plain
from fl_app.faults.suggestions import did_you_mean

SIMPLE = frozenset(
    {"int", "float", "bool", "list", "Optional", "Union", "Literal", "typing", "None"}
)


def check(cfg: DictConfig) -> None:
    """Check the method and its arguments by what the installed PEFT declares.

    Raises
    ------
    ConfigError
        Naming the key, what it may be and, where there is one, the closest name.
    """
    method = check_method(cfg.adapter.method)
    check_arguments(method, plain(cfg.adapter.args))
    prompts = declared.is_prompt_learning(method)
    if cfg.task.id == "docvqa" and prompts and method != support.PAGE_PROMPTS:
        raise ConfigError(
            f"adapter.method={method} is not for pages: with task=docvqa choose a method that "
            f"changes modules, such as LORA or IA3, or {support.PAGE_PROMPTS}"
        )
    bits = cfg.model.get("quantization", "none")
    if bits != "none" and cfg.adapter.args.get("use_dora"):
        raise ConfigError(
            "adapter.args.use_dora reads the weights of the base, which model.quantization="
            f"{bits} packs: set model.quantization=none"
        )
    if bits != "none" and method not in support.QUANTIZED:
        raise ConfigError(
            f"adapter.method={method} cannot be trained over model.quantization={bits}: it should "
            f"be one of {', '.join(sorted(support.QUANTIZED))}, or model.quantization=none"
        )


def check_model(cfg: DictConfig) -> None:
    """Check that the method is for the model's architecture; ValueError if not."""
    from fl_app.adapters.peft_methods.adapter import check_kind
    from fl_app.models.auto import outline

    if cfg.task.id != "docvqa" and (model := outline(cfg.model, cfg.task)) is not None:
        check_kind(model, cfg.adapter.method)


def check_method(method: object) -> str:
    """Return the name of a method that can be federated.

    Raises
    ------
    ConfigError
        If PEFT has no such method, or it cannot be federated.
    """
    known = sorted({*declared.methods()} - {*support.REFUSED})
    if not isinstance(method, str) or method not in declared.methods():
        variant = support.VARIANTS.get(str(method).replace("_", ""))
        advice = f" Did you mean {variant}?" if variant else did_you_mean(method, known)
        raise ConfigError(
            f"adapter.method={method} is no method of PEFT.{advice} It should be one of "
            f"{', '.join(known)}"
        )
    if method in support.REFUSED:
        raise ConfigError(
            f"adapter.method={method} cannot be federated: {support.REFUSED[method]}. It should be "
            f"one of {', '.join(known)}"
        )
    return method


def check_arguments(method: str, given: dict[str, Any]) -> None:
    """Check the arguments of a method's config class.

    Raises
    ------
    ConfigError
        If one is unknown, of another type, not plain data, or missing.
    """
    allowed = arguments(method)
    for name, value in given.items():
        key = f"adapter.args.{name}"
        field = declared.fields(method).get(name)
        if field is None:
            raise ConfigError(
                f"{key} is no argument of {declared.methods()[method]}."
                f"{did_you_mean(name, allowed)} It has {', '.join(allowed)}"
            )
        if name not in allowed:
            raise ConfigError(
                f"{key} may not be set: it is Thinwire's, or could name a file, code or another "
                "model"
            )
        if not declared.accepts(field.annotation, value):
            raise ConfigError(f"{key}={value!r} should be of type {field.words}, as PEFT declares")
        if name in support.VALUES:
            values, why = support.VALUES[name]
            if value not in values or type(value) not in map(type, values):
                shown = " or ".join(map(str, values))
                raise ConfigError(f"{key}={value!r} should be {shown}: {why}")
    for name in support.REQUIRED.get(method, ()):
        if given.get(name) is None:
            raise ConfigError(f"adapter.method={method} needs adapter.args.{name}")


def arguments(method: str) -> list[str]:
    """Return the arguments of a method that may be set: plain data, which names nothing to load."""
    return [
        name
        for name, field in declared.fields(method).items()
        if field.owner != declared.COMMON and (name in support.DATA or is_simple(field))
    ]


def is_simple(field: declared.Field) -> bool:
    """Tell whether a type holds numbers, switches, lists of these, and listed names alone."""
    listed = {
        id(part)
        for node in ast.walk(field.annotation)
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Literal")
        for part in ast.walk(node.slice)
    }
    names = {
        getattr(node, "id", None) or getattr(node, "attr", None)
        for node in ast.walk(field.annotation)
        if isinstance(node, (ast.Name, ast.Attribute)) and id(node) not in listed
    }
    return names <= SIMPLE
