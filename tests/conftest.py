"""Settings of the whole suite: one thread per process, no network, reproducible examples."""

import gc
import json
import os
import random
import subprocess
import sys
from functools import cache

# Before torch and numba are imported: the suite shares its cores with Ray's actors. torch need not
# import its compiler for what bitsandbytes would compile, see ``fl_app.simulation.preload``.
os.environ.update(
    OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TORCHDYNAMO_DISABLE="1"
)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each process compiles the project anew

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from opacus.accountants.analysis import rdp

torch.set_num_threads(1)
gc.disable()  # until everything is imported
settings.register_profile("thinwire", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("thinwire")

# Most of an accountant's time, and all its numbers come from few noises, rates and orders.
rdp._compute_log_a_for_frac_alpha = cache(rdp._compute_log_a_for_frac_alpha)


# Files that start Flower's processes and wait for them: the longest first.
SHARING = ("tests/simulation/test_run.py", "tests/simulation/test_killed.py")  # one ``launcher``
LONGEST = (
    "tests/server/test_faults.py", *SHARING, "tests/sweep/test_sweep_commands.py",
    "tests/deploy/test_deployment.py", "tests/simulation/test_commands.py",
    "tests/simulation/test_wheel.py",
)  # fmt: skip


@pytest.fixture(scope="session")
def launcher() -> Iterator[subprocess.Popen[str]]:
    """Start a process that starts a SuperLink, with one actor a run since each imports torch."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.launcher"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
        env={**os.environ, "LOKY_MAX_CPU_COUNT": "1"},
        umask=0o022,  # under which others may read what a process makes
    ) as process:  # fmt: skip
        yield process
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.wait(60)


@pytest.fixture(scope="session")
def flower(launcher: subprocess.Popen[str]) -> dict[str, str]:
    """Return the environment in which ``flwr run`` uses the SuperLink."""
    assert launcher.stdout is not None
    return dict(json.loads(launcher.stdout.readline()))


def pytest_collection_finish() -> None:
    """Enable garbage collection, except for imported objects."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def frozen() -> None:
    """Exempt objects of earlier test modules: Flower collects garbage with every reply."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed what a test draws from global generators: the same whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out combinations, unless asked for, and run the long tests first.

    Combinations are tests marked ``methods``: more codecs, strategies and ways of a mechanism whose
    law another test holds.
    """
    if "methods" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if _is_combination(item)])
        items[:] = [item for item in items if not _is_combination(item)]
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    file = item.nodeid.partition("::")[0]
    return LONGEST.index(file) if file in LONGEST else len(LONGEST)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a file to one worker, as ``--dist loadfile`` does, and those of SHARING to the same."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return SHARING[0] if file in SHARING else file

    return Files(config, log) if config.option.dist == "loadfile" else None


def _is_combination(item: pytest.Item) -> bool:
    return item.get_closest_marker("methods") is not None
