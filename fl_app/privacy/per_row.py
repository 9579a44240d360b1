"""The gradient of every row of a batch, by the hooks of Opacus.

A row is what is protected, so that a row's gradient has to depend on that row alone: its loss is
the mean over its own labels, not a share of the batch's mean, and the gradients of several
examples of one row (questions about a document) are added up before anything is clipped.
"""

import warnings
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from opacus.grad_sample import GradSampleHooks
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from fl_app.data.padding import IGNORED
from fl_app.tasks import Task

Row = dict[str, Any]
TOLERANCE = 1e-3  # of a gradient's largest entry: float32 sums in another order


class PerRowGradients:
    """Hooks on ``model`` that leave a gradient per row in ``grad_sample`` of what is trained.

    Parameters
    ----------
    model : in training mode
        What is trained has to be float32, and in layers whose ``forward`` gets the batch first.

    Raises
    ------
    ValueError
        If a layer that is trained mixes examples, as batch normalization does, or has buffers; or
        if what is trained is of another type than float32.
    """

    def __init__(self, model: nn.Module, task: Task) -> None:
        self.model = model
        self.task = task
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        for name, parameter in self.trained.items():
            if parameter.dtype != torch.float32:
                raise ValueError(
                    f"privacy clips and adds noise in float32, but {name} is {parameter.dtype}: "
                    "set adapter.official_numerics=false, or use another adapter"
                )
        errors = ModuleValidator.validate(model)
        if errors:
            raise ValueError(f"privacy does not go with this model: {errors[0]}")
        try:
            self.hooks = GradSampleHooks(model, loss_reduction="sum")
        except NotImplementedError as error:
            raise ValueError(f"privacy does not go with this model: {error}") from None

    def remove(self) -> None:
        """Take the hooks and all that they left off the model."""
        self.hooks.cleanup()
        for module in self.model.modules():
            module.__dict__.pop("activations", None)
            module.__dict__.pop("max_batch_len", None)

    def losses(self, rows: Sequence[Row]) -> Tensor:
        """Return the loss of every row, [rows]: the mean cross-entropy of its own labels.

        Every row holds an example.
        """
        device = next(iter(self.trained.values())).device
        batch = {k: v.to(device) for k, v in self.task.training(rows).items()}
        logits, labels = self.model(**batch).logits, batch["labels"]
        if labels.dim() == 2 and not self.model.config.is_encoder_decoder:  # type: ignore[union-attr]
            logits, labels = logits[:, :-1], labels[:, 1:]  # a decoder predicts what comes next
        each = nn.functional.cross_entropy(
            logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        owners = self._owners(rows).to(device).repeat_interleave(labels[0].numel())
        scored = (labels.flatten() != IGNORED).float()
        zeros = each.new_zeros(len(rows))
        count = zeros.index_add(0, owners, scored).clamp(min=1)
        return zeros.index_add(0, owners, each) / count

    def backward(self, rows: Sequence[Row]) -> float:
        """Leave the gradients of the rows in ``grad_sample``, and return the sum of their losses.

        ``grad_sample`` is [rows that hold an example, *shape of the parameter]; the gradient of
        a row without an example is zero, and of no rows there is none.
        """
        rows = [row for row in rows if self.task.examples([row])]
        if not rows:
            for parameter in self.trained.values():
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))  # type: ignore[attr-defined]
            return 0.0
        loss = self.losses(rows).sum()
        if torch.isfinite(loss):
            self._collect(loss, rows)
        return loss.item()

    def check(self, rows: Iterable[Row]) -> None:
        """Check on two of ``rows`` that the hooks see what autograd does, and no row another's.

        Of the loss of one row, its own gradient is autograd's, and the other row's is zero.

        Raises
        ------
        ValueError
            If not: a parameter is used outside a layer's ``forward``, or a layer mixes rows or
            gets something else than the batch first. The message names the parameter.
        """
        pair = list(islice((row for row in rows if self.task.examples([row])), 2))
        if not pair:
            return
        pair = [pair[0], pair[-1]]
        for parameter in self.trained.values():
            parameter.grad = None
        self._collect(self.losses(pair)[0], pair)
        for name, parameter in self.trained.items():
            true, (own, other) = parameter.grad, parameter.grad_sample  # type: ignore[attr-defined]
            assert true is not None
            bound = TOLERANCE * float(true.abs().max())
            if float((own - true).abs().max()) > bound or float(other.abs().max()) > bound:
                raise ValueError(
                    f"the gradients that privacy clips are not those of single rows at {name}: "
                    "its layer mixes rows, or is not called on the batch; leave it out of what "
                    "is trained (adapter.target_modules, adapter.freeze)"
                )
            parameter.grad = parameter.grad_sample = None  # type: ignore[attr-defined]

    def _owners(self, rows: Sequence[Row]) -> Tensor:
        """Return the row that each example is of, [examples]."""
        counts = torch.tensor([self.task.examples([row]) for row in rows])
        return torch.arange(len(rows)).repeat_interleave(counts)

    def _collect(self, loss: Tensor, rows: Sequence[Row]) -> None:
        """Go backward, and add up what layers saw of each row."""
        for parameter in self.trained.values():
            parameter.grad_sample = None  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            # The first layers' inputs need no gradients: what their hooks get is all they need.
            warnings.filterwarnings("ignore", "Full backward hook is firing")
            loss.backward()
        owners = self._owners(rows)
        for name, parameter in self.trained.items():
            seen = parameter.grad_sample  # type: ignore[attr-defined]
            parameter.grad_sample = self._by_row(name, seen, owners, len(rows))  # type: ignore[attr-defined]

    def _by_row(self, name: str, seen: object, owners: Tensor, rows: int) -> Tensor:
        """Return [rows, ...] of what a layer saw, which ``check`` has found to be one of these."""
        if isinstance(seen, Tensor) and len(seen) == rows:  # rows, such as pages
            return seen
        if isinstance(seen, Tensor) and len(seen) == len(owners):  # examples
            zeros = seen.new_zeros(rows, *seen.shape[1:])
            return zeros.index_add(0, owners.to(seen.device), seen)
        if isinstance(seen, Tensor) and len(owners) == rows and len(seen) % rows == 0:  # tokens
            return seen.unflatten(0, (rows, -1)).sum(1)
        raise ValueError(
            f"privacy finds no gradient per row for {name}: it is not used by the model, or its "
            "layer is not called on the batch; leave it out of what is trained "
            "(adapter.target_modules, adapter.freeze)"
        )
