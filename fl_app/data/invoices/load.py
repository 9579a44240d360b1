"""DocVQA-mini: invoices of many providers with questions that the page answers literally.

A provider has its own language, labels, layout, number and date formats. All its documents use
them; their content changes. A model can therefore learn a provider's style. Every provider and
document has a random generator of its own, derived from (seed, pool, provider, document), so that
any subset can be made on any machine, with the same bytes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from datasets import Dataset, DatasetDict
from omegaconf import DictConfig

from fl_app.data.invoices.marks import STREAM, draw_marks, with_marks
from fl_app.data.invoices.page import (
    Page,
    draw_content,
    next_block,
    to_row,
    write_items,
    write_letterhead,
    write_pairs,
    write_parties,
)
from fl_app.data.invoices.provider import NOISE, POOLS, Pool, Provider, draw_address, make_provider
from fl_app.data.random_streams import choose, generator

# What the embedded model was pretrained on: providers of this seed, below this number.
PRETRAINING_SEED, PRETRAINING_PROVIDERS = 1, 2000


def make_document(
    seed: int, pool: Pool, number: int, provider: Provider, index: int
) -> dict[str, Any]:
    """Return document ``index`` of provider ``number``: one row, as ``fl_app.data`` describes."""
    rng = generator(seed, pool.key, number, index)
    values, lines = draw_content(rng, provider)
    page = Page(provider.line, provider.char)
    y = write_letterhead(page, provider, 40 + int(rng.integers(30)))
    blocks: dict[str, Callable[[int], int]] = {
        "head": lambda y: write_pairs(
            page, provider, provider.head_pair, provider.meta, values, not provider.mirrored, y
        ),
        "parties": lambda y: write_parties(
            page, provider, values["customer"], draw_address(rng), y
        ),
        "items": lambda y: write_items(page, provider, lines, y),
        "sums": lambda y: write_pairs(
            page, provider, provider.sums_pair, provider.sums, values, True, y
        ),
    }
    beside = None  # the top of a block that leaves the other half of the page free
    for name in provider.flow:
        page.block += 1
        top = y if beside is None else beside
        bottom = blocks[name](top)
        # The head and the parties stand side by side if neither needs the whole width.
        side_by_side = (
            beside is None
            and provider.head_pair != "row"
            and name in ("head", "parties")
            and next_block(provider.flow, name) in ("head", "parties")
        )
        y = max(y, bottom + provider.line)
        beside = top if side_by_side else None
    page.block += 1
    page.write(provider.left, y + provider.line, choose(rng, provider.words.closing))
    for _ in range(int(rng.integers(4))):
        # A speck is read with a line, after the line's words, so that no value is split.
        near = choose(rng, page.words)
        page.block = near.block
        page.write(int(rng.integers(960)), near.y0 + 1, choose(rng, NOISE))
    return to_row(rng, page, provider, f"{provider.name} {number}", f"{number}-{index}")


def make_documents(
    seed: int, pool: Pool, providers: Sequence[int], indices: Sequence[int], marks: int = 0
) -> list[dict[str, Any]]:
    """Return documents ``indices`` of each of the providers, provider by provider.

    With ``marks``, each has so many, and is asked for them; see ``fl_app.data.invoices.marks``.
    """
    rows = []
    for number in providers:
        provider = make_provider(seed, pool, number)
        for index in indices:
            row = make_document(seed, pool, number, provider, index)
            if marks:
                rng = generator(seed, pool.key, number, index, STREAM)
                row = with_marks(row, draw_marks(rng, marks))
            rows.append(row)
    return rows


def load(cfg_data: DictConfig, seed: int) -> DatasetDict:
    """Make the federated data set.

    Parameters
    ----------
    cfg_data : DictConfig
        Sizes, ``marks`` on each document, and ``seed``, which alone decides the bytes.
    seed : int
        The run's seed; not used.

    Returns
    -------
    DatasetDict
        ``train``: the clients' documents. ``test``: new documents of their providers.
        ``validation``: further new documents of their providers, unless ``validation_documents`` is
        0. ``source``: documents of new providers of the kind that the embedded model was pretrained
        on, with ``source_documents``. ``unseen`` and ``public``: documents of other providers. The
        size of one split changes no document of the others, but that of ``train`` those of
        ``test`` and ``validation``.

    Raises
    ------
    ValueError
        If ``test_documents`` is not in 1..(number of the clients' providers).
    """
    pool = POOLS["federated"]
    held = cfg_data.clients * cfg_data.providers_per_client
    if not 1 <= cfg_data.test_documents <= held:
        raise ValueError(f"test_documents must be in 1..{held}, at most one per provider")
    fresh = cfg_data.documents_per_provider
    tested = [k * held // cfg_data.test_documents for k in range(cfg_data.test_documents)]
    beyond = range(held, held + cfg_data.unseen_providers)
    made = partial(make_documents, marks=cfg_data.get("marks", 0))  # an earlier version has none
    splits = {
        "train": made(cfg_data.seed, pool, range(held), range(fresh)),
        "test": made(cfg_data.seed, pool, tested, [fresh]),
        "unseen": made(cfg_data.seed, pool, beyond, range(cfg_data.unseen_documents_per_provider)),
        "public": made(
            cfg_data.seed,
            pool,
            range(beyond.stop, beyond.stop + cfg_data.public_documents),
            range(1),
        ),
    }
    if cfg_data.validation_documents:
        splits["validation"] = _validation(cfg_data, made, held, fresh + 1)
    if cfg_data.get("source_documents"):  # an earlier version's options have none
        first, held_out = PRETRAINING_PROVIDERS, cfg_data.source_documents
        splits["source"] = made(
            PRETRAINING_SEED, POOLS["pretraining"], range(first, first + held_out), range(1)
        )
    return DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items()})


def _validation(
    cfg_data: DictConfig, made: Callable[..., list[dict[str, Any]]], held: int, first: int
) -> list[dict[str, Any]]:
    """Return documents ``first``, ``first + 1`` ... of evenly spaced providers of the clients."""
    count = cfg_data.validation_documents
    asked = Counter(k * held // count for k in range(count))
    rows = []
    for number, many in asked.items():
        rows += made(cfg_data.seed, POOLS["federated"], [number], range(first, first + many))
    return rows
