"""Settings of the whole suite: one thread per process, no network, reproducible examples."""

import gc
import os

# Before torch and numba are imported: the suite shares its cores with Ray's actors.
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from fl_app.simulation.superlink import superlinks

torch.set_num_threads(1)
gc.disable()  # until everything is imported
settings.register_profile("thinwire", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("thinwire")


@pytest.fixture(scope="session")
def flower() -> Iterator[dict[str, str]]:
    """Start a SuperLink, and yield the environment in which `flwr run` uses it."""
    with superlinks() as (environment,):
        yield environment


def pytest_collection_finish() -> None:
    """Enable garbage collection, except for imported objects."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def frozen() -> None:
    """Exempt objects of earlier test modules: Flower collects garbage with every reply."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the long tests, which wait for Flower's processes, first in every worker."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
