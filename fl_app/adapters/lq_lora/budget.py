"""Which matrix gets how many bits: an integer program, solved by HiGHS in scipy.

LQ-LoRA (Guo et al. 2023, https://arxiv.org/abs/2311.12023), section 3.2, with x_iq = 1 where matrix
i is stored in width q::

    minimize sum_iq cost_iq x_iq
    subject to sum_q x_iq = 1 for every i,  sum_iq bytes_iq x_iq <= budget,  x binary
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, eye_array, kron, vstack

NODES = 10_000
"""Of the solver's tree at most, then its best answer so far; by seconds, machines would differ."""


def choose(costs: NDArray[np.float64], nbytes: NDArray[np.int64], budget: float) -> Sequence[int]:
    """Return the width of every matrix, as its column.

    Parameters
    ----------
    costs : array [matrices, widths]
        Squared error of each matrix in each width.
    nbytes : array [matrices, widths]
        What it takes.
    budget : float
        Bytes of all matrices, at most.

    Raises
    ------
    ValueError
        If the smallest widths are too large for the budget.
    """
    matrices, widths = costs.shape
    if (least := int(nbytes.min(axis=1).sum())) > budget:
        raise ValueError(f"the matrices take {least:,} bytes at least, the budget is {budget:,.0f}")
    one_each = kron(eye_array(matrices), np.ones((1, widths)))
    rows = vstack([one_each, csr_array(nbytes.reshape(1, -1).astype(float))])
    lower, upper = np.ones(matrices + 1), np.ones(matrices + 1)
    lower[-1], upper[-1] = 0, budget
    found = milp(
        costs.ravel() / max(costs.max(), np.finfo(float).tiny),  # the solver's gaps are absolute
        integrality=np.ones(costs.size),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(rows, lower, upper),
        options={"mip_rel_gap": 0.0, "node_limit": NODES},
    )
    if found.x is None:
        raise ValueError(f"the integer program of adapter.budget has no answer: {found.message}")
    return [int(k) for k in found.x.reshape(matrices, widths).argmax(axis=1)]
