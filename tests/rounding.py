"""Bounds on the difference of two results of the same arithmetic on any processors.

The order of a sum, and whether a product is rounded before it is added, depend on the width of
vectors, on blocking and on threads. Results are therefore compared in one of three ways:

- bit for bit, if both sides run the same operations on the same shapes in one process, or only
  operations that IEEE 754 rounds exactly, value by value (copies, + - * / and sqrt of arrays);
- within `summed` or `through`, if the number of summands is known;
- in float64, within `DOUBLES`, if the mathematics is tested: there a real error is a million times
  larger than a rounding error.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

UNIT = 2.0**-24
"""The largest relative error of one rounding to float32."""
DOUBLES = 16 * UNIT
"""The bound for models in float64: transformers casts some values to float32 and back."""


def summed(terms: int, size: float = 1.0) -> float:
    """Return the largest difference of two float32 sums of the same terms in any order.

    Each is within ``terms`` roundings of the exact sum (Higham, Accuracy and Stability of Numerical
    Algorithms, section 4.2).

    Parameters
    ----------
    terms : int
        The number of terms; one more if they are products, and one more if they were rounded to
        float32 before.
    size : float
        The sum of the terms' magnitudes.
    """
    error = terms * UNIT
    return 2 * error / (1 - error) * size


def through(model: nn.Module) -> float:
    """Return a bound on the relative L2 difference of two float32 passes through a network.

    It counts the terms of all matrix products as one sum. It is a first-order bound: rounding
    errors rarely add up, and two passes usually differ by a hundredth of it.
    """
    matrices = [p for p in model.parameters() if p.dim() > 1]
    return summed(sum(p.shape[-1] for p in matrices))


def apart(got: Any, expected: Any) -> float:
    """Return the L2 norm of the difference, relative to that of ``expected``."""
    a, b = _doubles(got), _doubles(expected)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), np.finfo(np.float64).tiny))


def assert_within(got: Any, expected: Any, bound: Any) -> None:
    """Assert that no value differs from ``expected`` by more than ``bound``, a number or array."""
    a, b = _doubles(got), _doubles(expected)
    assert a.shape == b.shape
    excess = np.abs(a - b) - _doubles(bound)
    assert not (excess > 0).any(), f"beyond the bound by {excess.max()}, of values as {b.flat[0]}"
    assert np.isfinite(a).all()


def assert_orthonormal(columns: Any) -> None:
    """Assert that the columns of a float32 matrix are orthonormal up to rounding of its QR."""
    q = _doubles(columns)
    assert_within(q.T @ q, np.eye(q.shape[1]), summed(2 * sum(q.shape)))


def _doubles(values: Any) -> NDArray[np.float64]:
    if isinstance(values, torch.Tensor):
        values = values.detach().double().numpy()
    return np.asarray(values, np.float64)
