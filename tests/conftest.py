"""Settings of the whole suite: one thread per process, no network, reproducible examples."""

import os

# Before torch and numba are imported: the suite shares its cores with Ray's actors.
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("thinwire", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("thinwire")


@pytest.fixture
def small() -> str:
    """Return overrides that shrink a run to seconds; the code path stays whole."""
    return (
        "federation.clients=2 data.providers_per_client=2 data.documents_per_provider=2 "
        "data.test_documents=4 data.unseen_providers=2 data.unseen_documents_per_provider=1 "
        "rounds=1 local_epochs=1"
    )
