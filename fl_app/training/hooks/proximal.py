"""FedProx's pull to the broadcast model."""

from torch import nn

from fl_app.training.loop import GradientHook


def proximal(mu: float, model: nn.Module) -> GradientHook:
    """Return FedProx's pull to the broadcast model: the gradient of ``mu/2 |theta - theta_t|^2``.

    Li et al. 2020, https://arxiv.org/abs/1812.06127, eq. 2.

    Parameters
    ----------
    mu : float
        Strength of the pull.
    model : Module
        Its trained parameters at the time of this call are theta_t.
    """
    start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    def hook(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start[name], alpha=mu)

    return hook
