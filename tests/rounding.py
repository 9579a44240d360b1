"""How far apart two results of the same arithmetic may be, whatever processor they come from.

In which order a sum is taken, and whether a product is rounded before it is added, depends on the
width of vectors, on blocking and on threads. So results are compared in one of three ways:

- bit for bit, where both sides run the same operations on the same shapes in one process, or only
  such as IEEE 754 rounds rightly, value by value (copies, + - * / and sqrt of arrays);
- within `summed` or `through`, where it is known how much is added up;
- in float64, to within `DOUBLES`, where the mathematics is what is tested: there an error that is
  none of rounding is a million times larger than one that is.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

UNIT = 2.0**-24
"""Of float32: the largest relative error of one rounding."""
DOUBLES = 16 * UNIT
"""Of models in float64: here and there transformers casts to float32 and back in between."""


def summed(terms: int, size: float = 1.0) -> float:
    """Return how far two float32 sums of as many terms, in any order, may be apart.

    Each is within ``terms`` roundings of the true one (Higham, Accuracy and Stability of Numerical
    Algorithms, section 4.2). A product counts as one term more, and so does what was rounded to
    float32 before.

    Parameters
    ----------
    size : float
        The sum of the terms' magnitudes.
    """
    error = terms * UNIT
    return 2 * error / (1 - error) * size


def through(model: nn.Module) -> float:
    """Return how far two float32 passes through a network may be apart, by their L2 norm.

    Its terms are those of all matrix products one after the other. It is a bound to first order:
    rounding errors hardly ever add up, and two passes are mostly a hundredth of it apart.
    """
    matrices = [p for p in model.parameters() if p.dim() > 1]
    return summed(sum(p.shape[-1] for p in matrices))


def apart(got: Any, expected: Any) -> float:
    """Return the L2 norm of the difference, relative to that of ``expected``."""
    a, b = _doubles(got), _doubles(expected)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), np.finfo(np.float64).tiny))


def assert_within(got: Any, expected: Any, bound: Any) -> None:
    """Assert that no value is further from ``expected`` than ``bound``, a number or as many."""
    a, b = _doubles(got), _doubles(expected)
    assert a.shape == b.shape
    excess = np.abs(a - b) - _doubles(bound)
    assert not (excess > 0).any(), f"beyond the bound by {excess.max()}, of values as {b.flat[0]}"
    assert np.isfinite(a).all()


def assert_orthonormal(columns: Any) -> None:
    """Assert it of the columns of a float32 matrix, to the rounding of its QR decomposition."""
    q = _doubles(columns)
    assert_within(q.T @ q, np.eye(q.shape[1]), summed(2 * sum(q.shape)))


def _doubles(values: Any) -> NDArray[np.float64]:
    if isinstance(values, torch.Tensor):
        values = values.detach().double().numpy()
    return np.asarray(values, np.float64)
