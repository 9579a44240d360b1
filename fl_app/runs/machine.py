"""The machine that a run's seconds were measured on, in words that name nobody."""

import os
import platform
from pathlib import Path
from typing import Any

import psutil

CPUINFO = Path("/proc/cpuinfo")


def described(device: str) -> dict[str, Any]:
    """Return processor, cores, memory in GiB, system and the device of the model.

    Neither the host's name nor a path is in it.

    Parameters
    ----------
    device : str
        The name of the GPU, or "cpu".
    """
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
    }


def _processor() -> str:
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _cores() -> int:
    return os.cpu_count() or 1
