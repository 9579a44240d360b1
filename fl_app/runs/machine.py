"""The machine that a run's seconds were measured on, in words that name nobody."""

import os
import platform
from pathlib import Path
from typing import Any

import joblib
import psutil

CPUINFO = Path("/proc/cpuinfo")


def described(device: str) -> dict[str, Any]:
    """Return processor, cores, memory in GiB, system, the device of the model, and the load.

    ``cores`` are those that this process may use, by affinity and by its container's limit.

    ``load`` is the number of threads that ran or waited for a processor, the run's own included, on
    average over the last five minutes (None where the system does not say): where it is above
    ``cores``, seconds were measured beside other work. Neither the host's name nor a path is in it.

    Parameters
    ----------
    device : str
        The name of the GPU, or "cpu".
    """
    return {
        "processor": _processor(),
        "cores": joblib.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
        "load": round(os.getloadavg()[1], 1) if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
