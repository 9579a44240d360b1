"""The environment in which numpy, torch and numba compute as on an old x86 processor.

``make test-portable`` runs the unit tests in it: sums in other orders, products that are rounded
before they are added, no vectors wider than SSE's. What only holds on the processor that a test was
written on fails there.
"""

from numpy._core._multiarray_umath import (  # no public name says what can be switched off
    __cpu_dispatch__,
    __cpu_features__,
)


def environment() -> dict[str, str]:
    """Return the variables; of numpy's vector instructions those that this machine has."""
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
