"""A penalty that pulls the factors of a LoRA towards orthonormal ones."""

from torch import Tensor, eye, linalg, nn, stack, triu_indices

from fl_app.training.loop import LossHook

PENALTIES = ("raw", "normalised")


def factors(model: nn.Module) -> list[Tensor]:
    """Return A and B^T, [r, in] and [r, out], of every linear module with a trained LoRA."""
    return [
        parameter.T if ".lora_B." in name else parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (".lora_A." in name or ".lora_B." in name)
    ]


def distance(f: Tensor, form: str) -> Tensor:
    """Return how far the rows of a factor [r, n] are from orthonormal ones.

    Parameters
    ----------
    form : str
        "raw": ``|F F^T - I|_F``, not squared. "normalised": the mean size of the cosine of two
        rows, 0 where there is one row; a row of zeros has a cosine of 0.
    """
    if form == "raw":
        return linalg.matrix_norm(f @ f.T - eye(len(f), dtype=f.dtype, device=f.device))
    unit = nn.functional.normalize(f, dim=1)
    first, second = triu_indices(len(f), len(f), 1)
    cosines = (unit @ unit.T)[first, second].abs()
    return cosines.mean() if len(cosines) else f.sum() * 0


def orthogonality(strength: float, form: str) -> LossHook:
    """Return the hook that adds ``strength`` times the mean distance of all factors to the loss.

    Parameters
    ----------
    strength : float
        lambda. The mean is over all A and B, so that it does not grow with the model.
    form : str
        See `distance`.
    """

    def hook(model: nn.Module, loss: Tensor) -> Tensor:
        return loss + strength * stack([distance(f, form) for f in factors(model)]).mean()

    return hook
