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
gc.disable()  # until all is imported
settings.register_profile("thinwire", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("thinwire")


@pytest.fixture(scope="session")
def flower() -> Iterator[dict[str, str]]:
    """A SuperLink of its own, as the environment in which it is the one of `flwr run`."""
    with superlinks() as (environment,):
        yield environment


def pytest_collection_finish() -> None:
    """Begin to collect garbage, but not among what was imported."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def frozen() -> None:
    """Leave alone what earlier modules keep: Flower collects garbage with every reply."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long ones, which wait for Flower's processes, at the start of every worker."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
