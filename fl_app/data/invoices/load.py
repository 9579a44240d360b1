"""DocVQA-mini: invoices of many providers with questions that the page answers literally.

A provider has its own language, labels, layout, number and date formats, and keeps them in all of
its documents; what the documents say changes. A model therefore learns a provider by its habits.
Every provider and document has a random generator of its own, derived from (seed, pool, provider,
document), so any subset can be made anywhere and is the same bytes.
"""

from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset, DatasetDict
from omegaconf import DictConfig

from fl_app.data.invoices.page import (
    Page,
    _content,
    _items,
    _letterhead,
    _next,
    _pairs,
    _parties,
    _row,
)
from fl_app.data.invoices.provider import NOISE, POOLS, Pool, Provider, _address, make_provider
from fl_app.data.random_streams import choose, generator


def make_document(
    seed: int, pool: Pool, number: int, provider: Provider, index: int
) -> dict[str, Any]:
    """Document ``index`` of provider ``number``: one row, as described in ``fl_app.data``."""
    rng = generator(seed, pool.key, number, index)
    values, lines = _content(rng, provider)
    page = Page(provider.line, provider.char)
    y = _letterhead(page, provider, 40 + int(rng.integers(30)))
    blocks: dict[str, Callable[[int], int]] = {
        "head": lambda y: _pairs(
            page, provider, provider.head_pair, provider.meta, values, not provider.mirrored, y
        ),
        "parties": lambda y: _parties(page, provider, values["customer"], _address(rng), y),
        "items": lambda y: _items(page, provider, lines, y),
        "sums": lambda y: _pairs(
            page, provider, provider.sums_pair, provider.sums, values, True, y
        ),
    }
    beside = None  # a block that leaves the other half of the page free
    for name in provider.flow:
        page.block += 1
        top = y if beside is None else beside
        bottom = blocks[name](top)
        # The head and the parties stand side by side where the one leaves room for the other.
        side_by_side = (
            beside is None
            and provider.head_pair != "row"
            and name in ("head", "parties")
            and _next(provider.flow, name) in ("head", "parties")
        )
        y = max(y, bottom + provider.line)
        beside = top if side_by_side else None
    page.block += 1
    page.write(provider.left, y + provider.line, choose(rng, provider.words.closing))
    for _ in range(int(rng.integers(4))):
        # A speck is read with some line, after the line's words: values stay in one piece.
        near = choose(rng, page.words)
        page.block = near.block
        page.write(int(rng.integers(960)), near.y0 + 1, choose(rng, NOISE))
    return _row(rng, page, provider, f"{provider.name} {number}", f"{number}-{index}")


def make_documents(
    seed: int, pool: Pool, providers: Sequence[int], indices: Sequence[int]
) -> list[dict[str, Any]]:
    """Documents ``indices`` of each of the providers, provider by provider."""
    rows = []
    for number in providers:
        provider = make_provider(seed, pool, number)
        rows += [make_document(seed, pool, number, provider, index) for index in indices]
    return rows


def load(cfg_data: DictConfig, seed: int) -> DatasetDict:
    """The federated data set: clients' documents, fresh ones of their providers, unseen ones and
    public ones.

    Args:
        cfg_data: sizes, and ``seed``, which alone decides the bytes.
        seed: the run's seed; does not matter here.

    Raises:
        ValueError: not 1..(number of held providers) test documents.
    """
    pool = POOLS["federated"]
    held = cfg_data.clients * cfg_data.providers_per_client
    if not 1 <= cfg_data.test_documents <= held:
        raise ValueError(f"test_documents must be in 1..{held}, one of a provider")
    fresh = cfg_data.documents_per_provider
    tested = [k * held // cfg_data.test_documents for k in range(cfg_data.test_documents)]
    beyond = range(held, held + cfg_data.unseen_providers)
    splits = {
        "train": make_documents(cfg_data.seed, pool, range(held), range(fresh)),
        "test": make_documents(cfg_data.seed, pool, tested, [fresh]),
        "unseen": make_documents(
            cfg_data.seed, pool, beyond, range(cfg_data.unseen_documents_per_provider)
        ),
        "public": make_documents(
            cfg_data.seed,
            pool,
            range(beyond.stop, beyond.stop + cfg_data.public_documents),
            range(1),
        ),
    }
    return DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items()})
