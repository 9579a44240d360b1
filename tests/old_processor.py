"""The environment in which numpy, torch and numba compute as on an old x86 processor.

``make test-portable`` runs the unit tests in it: sums have another order, products are rounded
before they are added, and vectors are not wider than SSE's. Tests that pass only on the processor
that they were written on fail there.
"""

from numpy._core._multiarray_umath import (  # no public name lists what can be switched off
    __cpu_dispatch__,
    __cpu_features__,
)


def environment() -> dict[str, str]:
    """Return the variables; they disable those of numpy's vector instructions that exist here."""
    return {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Prescott",
        "NPY_DISABLE_CPU_FEATURES": ",".join(
            x for x in __cpu_dispatch__ if __cpu_features__.get(x)
        ),
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
    }


if __name__ == "__main__":
    print(*(f"{name}={value}" for name, value in environment().items()))
