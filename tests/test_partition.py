"""Laws of the partitioners."""

from itertools import chain

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fl_app.data.partition import client_split

BY_PROVIDER = OmegaConf.create({"id": "by_column", "column": "provider"})
IID = OmegaConf.create({"id": "iid"})
NATURAL = OmegaConf.create({"id": "natural", "column": "provider"})


def _dataset(providers: list[int]) -> Dataset:
    return Dataset.from_dict({"row": list(range(len(providers))), "provider": providers})


def _parts(dataset: Dataset, cfg, count: int, seed: int) -> list[list[int]]:
    return [client_split(dataset, cfg, k, count, seed)["row"][:] for k in range(count)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 5), st.integers(0, 3))
def test_by_column_keeps_values_together_and_sizes_close(
    providers: list[int], count: int, seed: int
) -> None:
    dataset = _dataset(providers)
    if len(set(providers)) < count:
        with pytest.raises(ValueError, match="cannot fill"):
            client_split(dataset, BY_PROVIDER, 0, count, seed)
        return
    parts = _parts(dataset, BY_PROVIDER, count, seed)
    assert sorted(chain(*parts)) == list(range(len(providers)))
    held = [{providers[row] for row in part} for part in parts]
    assert sum(map(len, held)) == len(set(providers))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= max(providers.count(p) for p in providers)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 3))
def test_iid_covers_everything_in_equal_parts(rows: int, count: int, seed: int) -> None:
    dataset = _dataset([0] * rows)
    if rows < count:
        with pytest.raises(ValueError, match="cannot fill"):
            client_split(dataset, IID, 0, count, seed)
        return
    parts = _parts(dataset, IID, count, seed)
    assert sorted(chain(*parts)) == list(range(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-1, 5), min_size=1, max_size=40), st.integers(1, 5), st.integers(0, 3))
def test_natural_is_the_columns_own_partition(providers: list[int], count: int, seed: int) -> None:
    dataset = _dataset(providers)
    if {*providers} != {*range(count)}:
        with pytest.raises(
            ValueError, match=rf"provider should be 0\.\.{count - 1}, one per client"
        ):
            client_split(dataset, NATURAL, 0, count, seed)
        return
    parts = _parts(dataset, NATURAL, count, seed)
    for k, part in enumerate(parts):
        assert part == [row for row, provider in enumerate(providers) if provider == k]


@given(st.permutations([k % 5 for k in range(20)]), st.integers(0, 3))
def test_natural_draws_nothing(providers: list[int], seed: int) -> None:
    dataset = _dataset(providers)
    assert _parts(dataset, NATURAL, 5, seed) == _parts(dataset, NATURAL, 5, seed + 1)
    assert client_split(dataset, NATURAL, 3, 5, seed)["provider"][:] == [3] * 4


@pytest.mark.parametrize("cfg", [BY_PROVIDER, IID])
def test_the_seed_alone_decides(cfg) -> None:
    dataset = _dataset([k // 3 for k in range(60)])
    assert _parts(dataset, cfg, 4, 0) == _parts(dataset, cfg, 4, 0)
    assert _parts(dataset, cfg, 4, 0) != _parts(dataset, cfg, 4, 1)


def test_mistakes_name_the_alternatives() -> None:
    dataset = _dataset([0, 1])
    with pytest.raises(ValueError, match=r"one of \['by_column', 'iid', 'natural'\]"):
        client_split(dataset, OmegaConf.create({"id": "dirichlet"}), 0, 2, 0)
    with pytest.raises(ValueError, match=r"takes no column: .*~data\.partitioner\.column"):
        client_split(dataset, OmegaConf.create({"id": "iid", "column": "provider"}), 0, 2, 0)
    with pytest.raises(ValueError, match=r"needs data\.partitioner\.column"):
        client_split(dataset, OmegaConf.create({"id": "by_column"}), 0, 2, 0)
    with pytest.raises(ValueError, match="there are row, provider"):
        client_split(dataset, OmegaConf.create({"id": "by_column", "column": "client"}), 0, 2, 0)
    with pytest.raises(ValueError, match=r"not in 0\.\.1"):
        client_split(dataset, IID, 2, 2, 0)
