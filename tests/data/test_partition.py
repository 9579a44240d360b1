"""Laws of the partitioners."""

import re
from datetime import date
from itertools import chain
from math import exp

import pytest
from datasets import Dataset, Features, Json, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fl_app.build import open_session
from fl_app.data.partition import client_split, named_clients, rows_of_clients
from tests import small

BY_PROVIDER = OmegaConf.create({"id": "by_column", "column": "provider"})
IID = OmegaConf.create({"id": "iid"})
CONTIGUOUS = OmegaConf.create({"id": "contiguous"})
NATURAL = OmegaConf.create({"id": "natural", "column": "provider"})


BY_NAME = OmegaConf.create({"id": "client_column", "column": "provider"})


def _dirichlet(alpha: float, column: str = "provider"):
    return OmegaConf.create({"id": "dirichlet", "column": column, "alpha": alpha})


def _dataset(providers: list) -> Dataset:
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
def test_numbers_of_clients_may_be_texts(providers: list[int], seed: int) -> None:
    """Cells of CSV are texts."""
    texts = _parts(_dataset([*map(str, providers)]), NATURAL, 5, seed)
    assert texts == _parts(_dataset(providers), NATURAL, 5, seed)
    with pytest.raises(ValueError, match=r"differ in '00', 0"):
        client_split(_dataset(["00", "1"]), NATURAL, 0, 2, seed)


@given(st.permutations([k % 5 for k in range(20)]), st.integers(0, 3))
def test_natural_draws_nothing(providers: list[int], seed: int) -> None:
    dataset = _dataset(providers)
    assert _parts(dataset, NATURAL, 5, seed) == _parts(dataset, NATURAL, 5, seed + 1)
    assert client_split(dataset, NATURAL, 3, 5, seed)["provider"][:] == [3] * 4


NAMES = st.sampled_from(["7", "07", "a", "A", "a ", "ä", "true", "1e3"])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(NAMES, min_size=1, max_size=20) | st.lists(st.integers(-3, 3), min_size=1),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_a_column_names_the_clients_and_none_is_merged(names, count: int, random) -> None:
    """Client k has exactly the rows of one name, whatever the rows' order."""
    dataset = _dataset(names)
    known = sorted({*names})
    if len(known) != count:
        with pytest.raises(
            ValueError, match=rf"names {len(known)} clients.*set federation\.clients={len(known)}"
        ):
            client_split(dataset, BY_NAME, 0, count, 0)
        return
    parts = _parts(dataset, BY_NAME, count, 0)
    assert [{names[row] for row in part} for part in parts] == [{name} for name in known]
    assert sorted(chain(*parts)) == list(range(len(names)))
    told = named_clients(dataset, BY_NAME)
    assert told == [(name, names.count(name)) for name in known]
    shuffled = random.sample(names, len(names))
    assert named_clients(_dataset(shuffled), BY_NAME) == told
    assert named_clients(dataset, IID) == []


def test_the_number_1_and_the_text_1_are_two_clients() -> None:
    features = Features({"row": Value("int64"), "provider": Json()})
    rows = {"row": [0, 1, 2], "provider": ["1", '"1"', "1"]}
    dataset = Dataset.from_dict(rows, features=features)
    assert _parts(dataset, BY_NAME, 2, 0) == [[0, 2], [1]]
    with pytest.raises(ValueError, match="both 1 and '1'"):
        client_split(dataset, NATURAL, 0, 2, 0)


@pytest.mark.parametrize("cfg", [BY_NAME, BY_PROVIDER, NATURAL, _dirichlet(1.0)])
@pytest.mark.parametrize("nothing", [None, "", "  "])
def test_rows_that_nobody_owns_are_counted_and_refused(cfg, nothing) -> None:
    dataset = _dataset(["0", nothing, "1", nothing])
    drop = (
        r"drop\.provider=\[null\]$"
        if nothing is None
        else rf"drop\.provider=\"\[null,'{nothing}'\]"
    )
    with pytest.raises(ValueError, match=rf"=provider: 2 of 4 rows .*: 2, 4 \(counted.*{drop}"):
        client_split(dataset, cfg, 0, 2, 0)
    many = _dataset([nothing] * 30)
    with pytest.raises(ValueError, match=r"30 of 30 .*9, 10, \.\.\. \(20 more\)"):
        client_split(many, cfg, 0, 2, 0)


@pytest.mark.parametrize("cfg", [BY_NAME, BY_PROVIDER, NATURAL, _dirichlet(1.0)])
@pytest.mark.parametrize(
    ("values", "says"),
    [([0.0, 1.0], "floats"), ([True, False], "booleans"), ([date(2021, 3, 1)] * 2, "dates")],
)
def test_owners_are_named_by_texts_or_integers(cfg, values, says: str) -> None:
    with pytest.raises(ValueError, match=rf"holds {says}.*data\.formats\.provider="):
        client_split(_dataset(values), cfg, 0, 2, 0)


@given(
    st.lists(st.sampled_from([0, 0, 0, 1, 2, 9]), min_size=1, max_size=60),
    st.integers(1, 6),
    st.integers(0, 3),
    st.sampled_from([1e-300, 1e-9, 0.01, 0.5, 1.0, 100.0, 1e12]),
)
def test_dirichlet_covers_everything_in_equal_parts(
    labels: list[int], count: int, seed: int, alpha: float
) -> None:
    dataset, cfg = _dataset(labels), _dirichlet(alpha)
    if len(labels) < count:
        with pytest.raises(ValueError, match="rows cannot fill"):
            client_split(dataset, cfg, 0, count, seed)
        return
    parts = _parts(dataset, cfg, count, seed)
    assert sorted(chain(*parts)) == list(range(len(labels)))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts == _parts(dataset, cfg, count, seed)


def _distance(alpha: float, labels: list[int], count: int) -> float:
    """The mean total variation between a part's shares of the labels and the whole's."""
    dataset = _dataset(labels)
    whole = {label: labels.count(label) / len(labels) for label in {*labels}}
    distances = []
    for seed in range(5):
        for part in _parts(dataset, _dirichlet(alpha), count, seed):
            held = [labels[row] for row in part]
            distances += [sum(abs(held.count(x) / len(held) - p) for x, p in whole.items()) / 2]
    return sum(distances) / len(distances)


def test_dirichlet_goes_from_one_label_a_part_to_the_shares_of_the_whole() -> None:
    """The first labels of parts are drawn freely; those of the last are what is left."""
    labels = [label for label in range(4) for _ in range(100 * (label + 1))]
    distances = [_distance(alpha, labels, 10) for alpha in (0.01, 1.0, 10.0, 1e6)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.5
    assert distances[-1] < 0.1


def test_dirichlet_draws_shares_of_the_law() -> None:
    """Mean and variance of a first part's share are those of Dirichlet(alpha p), Hsu et al. 2019.

    The variance of a share is p (1 - p) / (alpha + 1), and the rows' own draw adds
    p (1 - p) alpha / (alpha + 1) / n.
    """
    labels, alpha, size = [0] * 600 + [1] * 1400, 3.0, 100
    dataset = _dataset(labels)
    shares = [
        sum(client_split(dataset, _dirichlet(alpha), 0, 20, seed)["provider"][:]) / size
        for seed in range(400)
    ]
    p = 0.7
    variance = p * (1 - p) / (alpha + 1) * (1 + alpha / size)
    assert sum(shares) / 400 == pytest.approx(p, abs=4 * (variance / 400) ** 0.5)
    assert sum((x - p) ** 2 for x in shares) / 400 == pytest.approx(variance, rel=0.3)


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 3))
def test_contiguous_parts_are_the_rows_in_order(rows: int, count: int, seed: int) -> None:
    dataset = _dataset([0] * rows)
    if rows < count:
        with pytest.raises(ValueError, match="cannot fill"):
            client_split(dataset, CONTIGUOUS, 0, count, seed)
        return
    parts = _parts(dataset, CONTIGUOUS, count, seed)
    assert list(chain(*parts)) == list(range(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("cfg", [BY_PROVIDER, IID, _dirichlet(1.0)])
def test_the_seed_alone_decides(cfg) -> None:
    dataset = _dataset([k // 3 for k in range(60)])
    assert _parts(dataset, cfg, 4, 0) == _parts(dataset, cfg, 4, 0)
    assert _parts(dataset, cfg, 4, 0) != _parts(dataset, cfg, 4, 1)


def _cfg(name: str, **arguments):
    return OmegaConf.create({"id": name, **arguments})


LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60)


def _divided(dataset: Dataset, cfg, count: int, seed: int) -> list[list[int]] | None:
    """The parts, after the laws of all partitioners; None where one clear error refuses."""
    try:
        parts = rows_of_clients(dataset, cfg, count, seed)
    except ValueError as error:
        if "lower" not in str(error):
            raise
        return None
    assert all(parts)
    held = [*chain(*parts)]
    assert len({*held}) == len(held)
    assert {*held} <= {*range(len(dataset))}
    assert parts == rows_of_clients(dataset, cfg, count, seed)
    return parts


@settings(deadline=None)
@given(LABELS, st.integers(1, 6), st.integers(0, 3), st.integers(1, 4),
       st.sampled_from(["random", "deterministic", "first-deterministic"]))  # fmt: skip
def test_pathological_gives_each_its_number_of_labels(labels, count, seed, classes, mode) -> None:
    cfg = _cfg(
        "pathological", column="provider", num_classes_per_partition=classes,
        class_assignment_mode=mode,
    )  # fmt: skip
    names = sorted({*labels})
    parts = _divided(_dataset(labels), cfg, count, seed)
    if parts is None:
        assert classes > len(names) or min(map(labels.count, names)) < count
        return
    having = [{labels[row] for row in part} for part in parts]
    assert {*map(len, having)} == {classes}
    used = set().union(*having)
    assert sorted(chain(*parts)) == [row for row, label in enumerate(labels) if label in used]
    for name in used:  # divided evenly
        sizes = [sum(labels[row] == name for row in part) for part in parts]
        assert max(sizes) - min(x for x in sizes if x) <= 1
    for k, own in enumerate(having):
        asked = {names[(k + i) % len(names)] for i in range(classes)}
        assert mode != "deterministic" or own == asked
        assert mode == "random" or names[k % len(names)] in own


@settings(deadline=None)
@given(LABELS, st.integers(1, 6), st.integers(0, 3), st.none() | st.integers(1, 3),
       st.none() | st.integers(1, 5), st.booleans())  # fmt: skip
def test_shards_are_rows_in_the_order_of_labels(labels, count, seed, number, size, keep) -> None:
    if number is None and size is None:
        return
    cfg = _cfg(
        "shard", column="provider", num_shards_per_partition=number, shard_size=size,
        keep_incomplete_shard=keep,
    )  # fmt: skip
    parts = _divided(_dataset(labels), cfg, count, seed)
    asked = (number or 1) * count
    size = size or len(labels) // asked
    whole, rest = divmod(len(labels), size) if size else (0, 0)
    if parts is None:
        assert whole + bool(rest) * keep < asked or (number is not None and whole < asked)
        return
    place = {row: at for at, row in enumerate(sorted(range(len(labels)), key=labels.__getitem__))}
    shards = [{place[row] // size for row in part} for part in parts]
    counts = [*map(len, shards)]
    assert len(set().union(*shards)) == sum(counts)  # nobody shares one
    if number is not None:
        assert {*counts} == {number}
    else:
        assert max(counts) - min(counts) <= 1
        assert len([*chain(*parts)]) == (len(labels) if keep else whole * size)


UNITS = {
    "linear": lambda k: k + 1, "square": lambda k: (k + 1) ** 2, "exponential": lambda k: exp(k + 1)
}  # fmt: skip


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 6), st.integers(0, 3), st.sampled_from([*UNITS]))
def test_sizes_are_in_proportion(rows: int, count: int, seed: int, name: str) -> None:
    parts = _divided(_dataset([0] * rows), _cfg(name), count, seed)
    units = [UNITS[name](k) for k in range(count)]
    exact = [unit / sum(units) * rows for unit in units]
    if parts is None:
        assert min(exact) < 1.001
        return
    assert sorted(chain(*parts)) == [*range(rows)]
    for part, size in zip(parts[:-1], exact[:-1], strict=True):
        assert size - 1.001 < len(part) < size + 0.001
    assert len(parts[-1]) >= exact[-1] - 0.001


@settings(deadline=None)
@given(LABELS, st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 3),
       st.sampled_from([1e-300, 0.01, 1.0, 1e6, None]))  # fmt: skip
def test_sizes_are_those_that_are_given(labels, sizes, seed: int, alpha) -> None:
    cfg = _cfg("size", partition_sizes=sizes)
    if alpha is not None:
        cfg = _cfg("inner_dirichlet", column="provider", alpha=alpha, partition_sizes=sizes)
    parts = _divided(_dataset(labels), cfg, len(sizes), seed)
    if parts is None:
        assert sum(sizes) > len(labels)
        return
    assert [*map(len, parts)] == sizes
    if sum(sizes) == len(labels):
        assert sorted(chain(*parts)) == [*range(len(labels))]


@settings(deadline=None)
@given(LABELS, st.integers(1, 5), st.integers(0, 3), st.integers(1, 12),
       st.sampled_from([1e-300, 0.1, 1.0, 100.0, 1e6]))  # fmt: skip
def test_dirichlet_of_drawn_sizes_has_a_least_one(labels, count, seed, least, alpha) -> None:
    cfg = OmegaConf.merge(_dirichlet(alpha), {"min_partition_size": least})
    parts = _divided(_dataset(labels), cfg, count, seed)
    if parts is None:
        return
    assert sorted(chain(*parts)) == [*range(len(labels))]
    assert min(map(len, parts)) >= least


def test_dirichlet_of_drawn_sizes_is_found_and_skewed() -> None:
    dataset = _dataset([k % 10 for k in range(1000)])
    cfg = OmegaConf.merge(_dirichlet(0.5), {"min_partition_size": 20})
    for seed in range(5):
        sizes = [*map(len, rows_of_clients(dataset, cfg, 5, seed))]
        assert min(sizes) >= 20
        assert max(sizes) - min(sizes) > 20
    cfg.min_partition_size = 201
    with pytest.raises(ValueError, match="min_partition_size=201: no draw"):
        rows_of_clients(dataset, cfg, 5, 0)


def test_inner_dirichlet_draws_shares_of_the_law() -> None:
    """As above: mean 1/2 and variance of Beta(alpha, alpha) with the rows' own draw."""
    alpha, size = 2.0, 100
    dataset = _dataset([0] * 2000 + [1] * 2000)
    cfg = _cfg("inner_dirichlet", column="provider", alpha=alpha, partition_sizes=[size] * 4)
    shares = [
        sum(row >= 2000 for row in part) / size
        for seed in range(100)
        for part in rows_of_clients(dataset, cfg, 4, seed)
    ]
    variance = 0.25 / (2 * alpha + 1) * (1 + 2 * alpha / size)
    assert sum(shares) / 400 == pytest.approx(0.5, abs=4 * (variance / 400) ** 0.5)
    assert sum((x - 0.5) ** 2 for x in shares) / 400 == pytest.approx(variance, rel=0.3)


def test_rows_that_nobody_gets_are_counted() -> None:
    words = f"{small.DATA} data.partitioner.id=shard federation.clients=2 data.partitioner."
    session = open_session(f"{words}shard_size=3")
    rows = len(session.data["train"])
    assert rows % 3
    said = f"{rows % 3} of {rows} rows of data.train: data.partitioner.id=shard gives them to no"
    assert session.left_out().startswith(said)
    assert open_session(f"{words}num_shards_per_partition=1").left_out() == ""


@pytest.mark.parametrize(
    ("cfg", "says"),
    [
        (_cfg("pathological", column="provider"), "needs data.partitioner.num_classes_per_part"),
        (
            _cfg("pathological", column="provider", num_classes_per_partition=0),
            "num_classes_per_partition=0 should be a whole number greater than 0",
        ),
        (
            _cfg("pathological", column="provider", num_classes_per_partition=3),
            "is more than the 2 values of provider",
        ),
        (
            _cfg("pathological", column="provider", num_classes_per_partition=1,
                 class_assignment_mode="shuffled"),
            "class_assignment_mode='shuffled' should be one of random, deterministic",
        ),
        (_cfg("shard", column="provider"), "num_shards_per_partition or data.partitioner.shard_si"),
        (_cfg("shard", column="provider", shard_size=2.5), "shard_size=2.5 should be null or a wh"),
        (_cfg("shard", column="provider", shard_size=1, keep_incomplete_shard=1), "true or false"),
        (_cfg("shard", column="provider", shard_size=4), "1 shards of 4 rows cannot fill 2"),
        (_cfg("size", partition_sizes=[1, 2, 3]), "has 3 sizes, and there are 2 clients"),
        (_cfg("size", partition_sizes=[]), "has 0 sizes"),
        (_cfg("size", partition_sizes=[4, 0]), "one per client"),
        (_cfg("size", partition_sizes="4"), "one per client"),
        (_cfg("size", partition_sizes=[4, 1]), "asks for 5 rows, and data.train has 4"),
        (_cfg("dirichlet", column="provider", alpha=1.0, min_partition_size=0), "null or a whole"),
        (_cfg("linear", column="provider"), "takes no column"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_are_refused_by_name(cfg, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        client_split(_dataset(["a", "a", "b", "b"]), cfg, 0, 2, 0)


def test_mistakes_name_the_alternatives() -> None:
    dataset = _dataset([0, 1])
    with pytest.raises(ValueError, match=r"one of \['by_column', 'client_column', 'contiguous'"):
        client_split(dataset, OmegaConf.create({"id": "shards"}), 0, 2, 0)
    for alpha in (0, -1.0, float("nan"), float("inf"), "much", True):
        with pytest.raises(ValueError, match=r"alpha=.* greater than 0"):
            client_split(dataset, _dirichlet(alpha), 0, 2, 0)
    lists = Dataset.from_dict({"provider": [[1], [2]]})
    with pytest.raises(ValueError, match="'provider' holds lists"):
        client_split(lists, BY_PROVIDER, 0, 2, 0)
    with pytest.raises(ValueError, match=r"takes no column: .*~data\.partitioner\.column"):
        client_split(dataset, OmegaConf.create({"id": "iid", "column": "provider"}), 0, 2, 0)
    with pytest.raises(ValueError, match=r"needs data\.partitioner\.column"):
        client_split(dataset, OmegaConf.create({"id": "by_column"}), 0, 2, 0)
    with pytest.raises(ValueError, match="there are row, provider"):
        client_split(dataset, OmegaConf.create({"id": "by_column", "column": "client"}), 0, 2, 0)
    with pytest.raises(ValueError, match=r"not in 0\.\.1"):
        client_split(dataset, IID, 2, 2, 0)
