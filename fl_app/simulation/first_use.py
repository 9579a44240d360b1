"""Do, in the process that tasks are forked from, what takes longest at its first use.

Hydra looks for plugins, and Numba loads its types and functions. Otherwise every process for a
message to a node would do it anew.
"""

import gc

import numba

from fl_app.config import compose

compose()
numba.njit(lambda x: x)(0)
gc.freeze()
