"""Word problems: short stories of two or three operations on numbers up to 50, and their working.

A provider has one kind of story, a fixed choice of wording, people and items, and a few sequences
of operations. All its problems use them; the numbers change. Every provider and problem has a
random generator of its own, derived from (seed, pool, provider, problem), so that any subset can be
made on any machine, with the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from omegaconf import DictConfig

from fl_app.data.random_streams import choose, generator
from fl_app.data.stories import FEDERATED, NAMES, OPERATIONS, PRETRAINING, UNSEEN, Kind

LARGEST = 50  # largest number, also of intermediate results
FACTORS = (2, 3, 4, 5)
TRIES = 1000  # how many problems of a provider are made to find a new one


@dataclass(frozen=True)
class Pool:
    """What the providers of a pool choose from.

    Attributes
    ----------
    key : int
        Separates the random streams of the pools.
    kinds : tuple of Kind
        Kinds of story.
    names : tuple of str
        People.
    orders : tuple of str
        Sequences of operations of a problem, such as "+*".
    """

    key: int
    kinds: tuple[Kind, ...]
    names: tuple[str, ...]
    orders: tuple[str, ...]


_ORDERS = ("+*", "*+", "/+", "-/", "/*", "+-+", "-+-", "*-+", "+-*", "-/+", "+/-", "-*+")
POOLS = {
    "pretraining": Pool(
        key=10,
        kinds=PRETRAINING,
        names=NAMES["pretraining"],
        orders=(
            "+",
            "-",
            "*",
            "/",
            "++",
            "+-",
            "-+",
            "--",
            "*-",
            "/-",
            "+/",
            "-*",
            "*/",
            "++-",
            "--+",
        ),
    ),
    "federated": Pool(key=11, kinds=FEDERATED, names=NAMES["federated"], orders=_ORDERS),
    "unseen": Pool(key=12, kinds=UNSEEN, names=NAMES["federated"], orders=_ORDERS),
}


@dataclass(frozen=True)
class Provider:
    """What all problems of one provider have in common."""

    name: str
    kind: Kind
    opening: str
    events: dict[str, str]  # the phrase of each operation
    question: str
    items: tuple[str, ...]
    people: tuple[str, ...]
    orders: tuple[str, ...]


def make_provider(seed: int, pool: Pool, number: int) -> Provider:
    """Return provider ``number`` of a pool; its kind of story is ``number`` modulo their count."""
    rng = generator(seed, pool.key, number)
    kind = pool.kinds[number % len(pool.kinds)]
    return Provider(
        name=f"{kind.name} {number}",
        kind=kind,
        opening=choose(rng, kind.openings),
        events={operation: choose(rng, kind.events[operation]) for operation in OPERATIONS},
        question=choose(rng, kind.questions),
        items=tuple(rng.choice(kind.items, 2, replace=False).tolist()),
        people=tuple(rng.choice(pool.names, 3, replace=False).tolist()),
        orders=tuple(rng.choice(pool.orders, 6, replace=False).tolist()),
    )


# What the embedded model was pretrained on: providers of this seed, below this number.
PRETRAINING_SEED, PRETRAINING_PROVIDERS = 1, 2000


def make_problem(
    seed: int, pool: Pool, number: int, provider: Provider, index: int
) -> dict[str, Any]:
    """Return problem ``index`` of provider ``number``: one row, as described in ``fl_app.data``."""
    rng = generator(seed, pool.key, number, index)
    order = choose(rng, provider.orders)
    numbers = draw_numbers(rng, order)
    words = {"name": choose(rng, provider.people), "items": choose(rng, provider.items)}
    sentences = [provider.opening, *(provider.events[operation] for operation in order)]
    story = [text.format(n=n, **words) for text, n in zip(sentences, numbers, strict=True)]
    return {
        "instruction": " ".join([*story, provider.question.format(**words)]),
        "output": working(order, numbers),
        "kind": provider.kind.name,
        "provider": provider.name,
    }


def make_problems(
    seed: int, pool: Pool, providers: Sequence[int], indices: Sequence[int]
) -> list[dict[str, Any]]:
    """Return problems ``indices`` of each of the providers, provider by provider."""
    rows = []
    for number in providers:
        provider = make_provider(seed, pool, number)
        rows += [make_problem(seed, pool, number, provider, index) for index in indices]
    return rows


def make_expression(rng: np.random.Generator) -> dict[str, Any]:
    """Return a problem without a story, such as "(17 + 4) * 3", of one to three operations."""
    order = "".join(choose(rng, OPERATIONS) for _ in range(choose(rng, (1, 1, 2, 3))))
    numbers = draw_numbers(rng, order)
    text = str(numbers[0])
    for step, (operation, n) in enumerate(zip(order, numbers[1:], strict=True)):
        text = f"({text}) {operation} {n}" if step else f"{text} {operation} {n}"
    return {"instruction": text, "output": working(order, numbers)}


def draw_numbers(rng: np.random.Generator, order: str) -> list[int]:
    """Return a start and one number per operation.

    All results are whole numbers in 1..LARGEST.
    """
    while True:
        numbers = [int(rng.integers(2, LARGEST + 1))]
        numbers += [
            choose(rng, FACTORS) if operation in "*/" else int(rng.integers(2, 31))
            for operation in order
        ]
        if all(0 < x <= LARGEST and x.denominator == 1 for x in results(order, numbers)):
            return numbers


def results(order: str, numbers: Sequence[int]) -> list[Fraction]:
    """Return the result after each operation, from left to right."""
    found = [Fraction(numbers[0])]
    for operation, n in zip(order, numbers[1:], strict=True):
        last = found[-1]
        found.append({"+": last + n, "-": last - n, "*": last * n, "/": last / n}[operation])
    return found[1:]


def working(order: str, numbers: Sequence[int]) -> str:
    """Return one operation per line, then the answer in the form of GSM8K: "#### 42".

    Cobbe et al. 2021, https://arxiv.org/abs/2110.14168.
    """
    found = [Fraction(numbers[0]), *results(order, numbers)]
    lines = [
        f"{left}{operation}{n}={right}"
        for (left, right), operation, n in zip(pairwise(found), order, numbers[1:], strict=True)
    ]
    return "\n".join([*lines, f"#### {found[-1]}"])


def load(cfg_data: DictConfig, seed: int) -> DatasetDict:
    """Make the federated data set.

    Parameters
    ----------
    cfg_data : DictConfig
        Sizes, and ``seed``, which alone decides the bytes.
    seed : int
        The run's seed; not used.

    Returns
    -------
    DatasetDict
        ``train``: the clients' problems. ``test``: new problems of their providers; none has the
        kind, operations and numbers of a problem of ``train`` or ``public``, or of another test
        problem. ``validation``: more of them, and none is like a test problem; they are drawn after
        ``test``, which does not depend on them. ``unseen``: kinds of story that no client holds.
        ``public``: the clients' kinds, by other providers. ``source``: the kinds that the embedded
        model was pretrained on, by new providers, with ``source_problems``.

    Raises
    ------
    ValueError
        If so many problems are asked for that a provider has no new one.
    """
    pool, own = POOLS["federated"], cfg_data.seed
    held = cfg_data.clients * cfg_data.providers_per_client
    public = range(held, held + cfg_data.public_providers)
    splits = {
        "train": make_problems(own, pool, range(held), range(cfg_data.problems_per_provider)),
        "public": make_problems(own, pool, public, range(cfg_data.public_problems_per_provider)),
        "unseen": make_problems(
            own,
            POOLS["unseen"],
            range(cfg_data.unseen_providers),
            range(cfg_data.unseen_problems_per_provider),
        ),
    }
    if cfg_data.get("source_problems"):  # an earlier version's options have none
        first, held_out = PRETRAINING_PROVIDERS, cfg_data.source_problems
        splits["source"] = make_problems(
            PRETRAINING_SEED, POOLS["pretraining"], range(first, first + held_out), range(1)
        )
    known = {(row["kind"], row["output"]) for split in splits.values() for row in split}
    for name in ("test", "validation"):
        splits[name] = _new_problems(cfg_data, name, known)
    return DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items() if rows})


def _new_problems(
    cfg_data: DictConfig, split: str, known: set[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Return new problems of evenly spaced providers of the clients, and add them to ``known``."""
    pool, own, count = POOLS["federated"], cfg_data.seed, cfg_data[f"{split}_problems"]
    held = cfg_data.clients * cfg_data.providers_per_client
    first = cfg_data.problems_per_provider
    rows = []
    for k in range(count):
        number = k * held // count
        provider = make_provider(own, pool, number)
        for index in range(first, first + TRIES):
            row = make_problem(own, pool, number, provider, index)
            if (row["kind"], row["output"]) not in known:
                break
        else:
            raise ValueError(
                f"{provider.name} has no problem left for the {split} split: lower "
                f"data.problems_per_provider or data.{split}_problems"
            )
        known.add((row["kind"], row["output"]))
        rows.append(row)
    return rows
