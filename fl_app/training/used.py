"""The check that all that is trained and sent takes part in the loss."""

from collections.abc import Container

from torch import nn

from fl_app.faults import FaultError

MOST_NAMED = 3
BY_ROW = ".experts."  # of these each row uses some


def check_used(model: nn.Module, used: Container[str] | None = None) -> None:
    """Refuse trained parameters on which the loss of a step does not depend.

    They would be sent each round, and never change: a copy of a tied module, or a module that the
    task does not use. Of experts each row uses some, and where layers are dropped at random nothing
    is checked.

    Parameters
    ----------
    model : Module
        After the backward pass of a step.
    used : container of str or None
        The names of the parameters that had a gradient; None: those that have one now.

    Raises
    ------
    FaultError
        Names them.
    """
    if any(getattr(module, "layerdrop", 0.0) for module in model.modules()):
        return
    idle = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and BY_ROW not in name
        and (parameter.grad is None if used is None else name not in used)
    ]
    if idle:
        shown = [_own_name(name) for name in idle[:MOST_NAMED]]
        more = f" and {len(idle) - len(shown)} more" if len(idle) > len(shown) else ""
        raise FaultError("no_gradient", names=", ".join(shown) + more)


def _own_name(name: str) -> str:
    """Return a parameter's name without what PEFT's wrappers add."""
    return name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
