"""DocVQA-mini: invoices of many providers with questions that the page answers literally.

A provider has its own language, labels, layout, number and date formats, and keeps them in all of
its documents; what the documents say changes. A model therefore learns a provider by its habits.
Every provider and document has a random generator of its own, derived from (seed, pool, provider,
document), so any subset can be made anywhere and is the same bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from omegaconf import DictConfig

from fl_app.data.random_streams import choose, generator
from fl_app.data.vocabulary import (
    DISTRACTORS,
    FEDERATED,
    FIELDS,
    HEADINGS,
    PRETRAINING,
    Vocabulary,
    pseudo_word,
)

CASES: tuple[Callable[[str], str], ...] = (str, str, str.upper, str.title)

QUESTIONS: dict[str, tuple[str, ...]] = {
    "invoice_number": ("What is the invoice number?", "Which number does the invoice have?"),
    "invoice_date": ("What is the invoice date?", "When was the invoice issued?"),
    "due_date": ("What is the due date?", "When must it be paid?"),
    "order_number": ("What is the order number?", "Which order does it refer to?"),
    "customer": ("Who is the customer?", "Who is billed?"),
    "subtotal": ("What is the subtotal?", "What is the amount before tax?"),
    "tax": ("What is the tax amount?", "How much is the tax?"),
    "total": ("What is the total amount?", "How much is to be paid?"),
}
META = ("invoice_number", "invoice_date", "due_date", "order_number")
SUMS = ("subtotal", "tax", "total")
NOISE = ("|", "||", ".", "..", "*", "~", "_", "'", "-", "=", "lI", "rn", "ii")
STREETS = ("Street", "Road", "Lane", "Square", "Park")


@dataclass(frozen=True)
class Pool:
    """What the providers of one kind choose from; ``key`` separates their random streams.

    ``pairs`` are the ways to place a label and its value, ``flows`` the orders of the page's
    blocks, ``numbers`` (thousands, decimal) separators, ``currencies`` texts around an amount,
    ``dates`` formats (see ``format_date``).
    """

    key: int
    vocabularies: tuple[Vocabulary, ...]
    pairs: tuple[str, ...]
    flows: tuple[tuple[str, ...], ...]
    numbers: tuple[tuple[str, str], ...]
    currencies: tuple[str, ...]
    dates: tuple[str, ...]


POOLS = {
    "pretraining": Pool(
        key=0,
        vocabularies=PRETRAINING,
        pairs=("left", "left", "column", "above", "row"),
        flows=(("head", "parties", "items", "sums"), ("parties", "head", "items", "sums")),
        numbers=((",", "."), (".", ","), ("", "."), (" ", ","), ("'", "."), ("", ",")),
        currencies=("{}", "{}", "${}", "{} EUR", "£{}", "{} €", "{}€", "USD {}", "{} kr"),
        dates=(
            "{Y}-{m:02}-{d:02}",
            "{d:02}/{m:02}/{Y}",
            "{m}/{d}/{Y}",
            "{d} {M} {Y}",
            "{B} {d}, {Y}",
            "{d:02}.{m:02}.{Y}",
            "{d:02}-{m:02}-{y:02}",
            "{d}. {B} {y:02}",
        ),
    ),
    "federated": Pool(
        key=1,
        vocabularies=FEDERATED,
        pairs=("left", "column", "above", "row"),
        flows=(
            ("head", "parties", "items", "sums"),
            ("sums", "head", "parties", "items"),
            ("parties", "items", "sums", "head"),
        ),
        numbers=((".", ","), (" ", ","), ("'", "."), ("", ",")),
        currencies=("{}", "{} €", "{}€", "CHF {}", "{} zł"),
        dates=(
            "{d:02}.{m:02}.{Y}",
            "{d}. {M} {Y}",
            "{d} {M} {Y}",
            "{d:02}-{m:02}-{y:02}",
            "{Y}/{m:02}/{d:02}",
        ),
    ),
}


@dataclass(frozen=True)
class Provider:
    """Habits of one provider: all that its documents have in common."""

    name: str
    words: Vocabulary
    labels: dict[str, str]  # as printed, of fields, distractors and headings
    distractors: tuple[str, ...]
    flow: tuple[str, ...]
    meta: tuple[str, ...]  # order of the head's pairs
    sums: tuple[str, ...]  # order of the sums' pairs
    head_pair: str
    sums_pair: str
    mirrored: bool  # head block on the left, parties on the right
    customer_above: bool  # its label stands above the name instead of before it
    number: tuple[str, str]
    currency: str
    date: str
    invoice_number: str  # patterns: "#" is a digit, "@" a letter
    order_number: str
    tax_rate: int  # percent
    left: int  # page margin, in thousandths of the page like all lengths
    line: int  # distance of lines
    char: int  # width of a character
    address: str


@dataclass(frozen=True)
class Word:
    """A word with its place: the block it belongs to, and its box's corners."""

    block: int
    x0: int
    y0: int
    x1: int
    y1: int
    text: str
    tag: int


class Page:
    """Words that have been written on a page; ``block`` is the one being written."""

    def __init__(self, line: int, char: int) -> None:
        self.line = line
        self.char = char
        self.block = 0
        self.words: list[Word] = []

    def width(self, text: str) -> int:
        return len(text) * self.char

    def write(self, x: int, y: int, text: str, tag: int = 0) -> int:
        """Write ``text`` from ``x`` on the line whose top is ``y``; return where it ends."""
        for word in text.split():
            end = x + self.width(word)
            self.words.append(Word(self.block, x, y, end, y + self.line * 2 // 3, word, tag))
            x = end + self.char
        return x


def make_provider(seed: int, pool: Pool, number: int) -> Provider:
    """Provider ``number`` of a pool."""
    rng = generator(seed, pool.key, number)
    words = choose(rng, pool.vocabularies)
    case = choose(rng, CASES)
    ending = choose(rng, ("", ":", ":", " :"))
    labels = {name: case(choose(rng, words.labels[name])) for name in FIELDS + DISTRACTORS}
    labels = {name: label + ending for name, label in labels.items()}
    labels |= {name: case(choose(rng, words.labels[name])) for name in HEADINGS}
    # Not every provider prints every distractor.
    distractors = tuple(name for name in DISTRACTORS if rng.random() < 0.3)
    meta = META + tuple(name for name in distractors if name != "shipping")
    sums: tuple[str, ...] = choose(rng, (SUMS, SUMS, ("total", "subtotal", "tax")))
    if "shipping" in distractors:
        sums = ("shipping", *sums)
    return Provider(
        name=f"{pseudo_word(rng, 2).capitalize()} {choose(rng, words.companies)}",
        words=words,
        labels=labels,
        distractors=distractors,
        flow=choose(rng, pool.flows),
        meta=tuple(meta[i] for i in rng.permutation(len(meta))),
        sums=sums,
        head_pair=choose(rng, pool.pairs),
        sums_pair=choose(rng, pool.pairs),
        mirrored=bool(rng.random() < 0.5),
        customer_above=bool(rng.random() < 0.6),
        number=choose(rng, pool.numbers),
        currency=choose(rng, pool.currencies),
        date=choose(rng, pool.dates),
        invoice_number=_number_pattern(rng),
        order_number=_number_pattern(rng),
        tax_rate=choose(rng, (5, 7, 8, 10, 19, 20, 21, 25)),
        left=int(rng.integers(40, 90)),
        line=int(rng.integers(18, 25)),
        char=int(rng.integers(6, 9)),
        address=_address(rng),
    )


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


def format_amount(cents: int, separators: tuple[str, str], currency: str) -> str:
    """1234567 cents as e.g. "12.345,67 €"."""
    thousands, decimal = separators
    whole = f"{cents // 100:,}".replace(",", thousands)
    return currency.format(f"{whole}{decimal}{cents % 100:02}")


def format_date(day: date, pattern: str, months: tuple[str, ...]) -> str:
    """A day by a pattern of {Y} and {y} (two digits), {m}, {d}, {M} (name) and {B} (its start)."""
    month = months[day.month - 1]
    return pattern.format(
        Y=day.year, y=day.year % 100, m=day.month, d=day.day, M=month, B=month[:3].capitalize()
    )


def _number_pattern(rng: np.random.Generator) -> str:
    letters = "".join("ABCDEFGHKLMNPRSTVZ"[i] for i in rng.integers(18, size=2))
    forms = ("######", "20##-####", f"{letters}-#####", f"{letters}####", "###/###", "@##-###")
    return choose(rng, forms)


def _fill(rng: np.random.Generator, pattern: str) -> str:
    return "".join(
        str(rng.integers(10)) if c == "#" else "ABCDEFGH"[rng.integers(8)] if c == "@" else c
        for c in pattern
    )


def _name(rng: np.random.Generator) -> str:
    return pseudo_word(rng, 1 + int(rng.integers(2))).capitalize()


def _address(rng: np.random.Generator) -> str:
    return f"{_name(rng)} {choose(rng, STREETS)} {rng.integers(1, 200)}"


def _content(
    rng: np.random.Generator, provider: Provider
) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """The values that a document prints, and its item lines."""
    issued = date(2019, 1, 1) + timedelta(days=int(rng.integers(2500)))
    due = issued + timedelta(days=int(rng.integers(7, 61)))
    delivered = issued - timedelta(days=int(rng.integers(1, 20)))

    def money(cents: int) -> str:
        return format_amount(cents, provider.number, provider.currency)

    def day(when: date) -> str:
        return format_date(when, provider.date, provider.words.months)

    lines, subtotal = [], 0
    for _ in range(int(rng.integers(1, 3))):
        quantity = int(rng.integers(1, 10))
        price = int(rng.integers(100, 1000)) * choose(rng, (5, 17, 41, 97))
        subtotal += quantity * price
        amount = format_amount(quantity * price, provider.number, "{}")
        lines.append((_name(rng), str(quantity), amount))
    shipping = int(rng.integers(300, 4000)) if "shipping" in provider.distractors else 0
    tax = (subtotal + shipping) * provider.tax_rate // 100
    customer = [_name(rng) for _ in range(int(rng.integers(1, 3)))]
    values = {
        "invoice_number": _fill(rng, provider.invoice_number),
        "invoice_date": day(issued),
        "due_date": day(due),
        "order_number": _fill(rng, provider.order_number),
        "customer": " ".join([*customer, choose(rng, provider.words.companies)]),
        "subtotal": money(subtotal),
        "tax": money(tax),
        "total": money(subtotal + shipping + tax),
        "delivery_date": day(delivered),
        "account_number": str(rng.integers(1000, 99999)),
        "shipping": money(shipping),
    }
    return values, lines


def _tag(field: str) -> int:
    return FIELDS.index(field) + 1 if field in FIELDS else 0


def _next(flow: tuple[str, ...], name: str) -> str:
    """The block after ``name``, "" after the last."""
    return (*flow, "")[flow.index(name) + 1]


def _letterhead(page: Page, provider: Provider, y: int) -> int:
    page.write(provider.left, y, provider.name)
    title = provider.labels["title"]
    page.write(960 - page.width(title), y, title)
    page.write(provider.left, y + page.line, provider.address)
    return y + 3 * page.line


def _pairs(
    page: Page,
    provider: Provider,
    way: str,
    names: tuple[str, ...],
    values: dict[str, str],
    right: bool,
    y: int,
) -> int:
    """Write labels with their values the given way; return the bottom.

    "left": the value follows its label; "column": values are aligned on the right; "above": the
    label stands above its value; "row": labels are headings of a table with one line of values.
    """
    x = 520 if right else provider.left
    if way == "row":
        widths = [max(page.width(provider.labels[n]), page.width(values[n])) for n in names]
        x = provider.left
        for name, width in zip(names, widths, strict=True):
            if x + width > 980:
                x, y = provider.left, y + 3 * page.line
            page.write(x, y, provider.labels[name])
            page.write(x, y + page.line, values[name], _tag(name))
            x += width + 3 * page.char
        return y + 2 * page.line
    for name in names:
        label, value = provider.labels[name], values[name]
        if way == "left":
            page.write(page.write(x, y, label), y, value, _tag(name))
        elif way == "column":
            page.write(x, y, label)
            page.write(x + 410 - page.width(value), y, value, _tag(name))
        else:
            page.write(x, y, label)
            page.write(x, y + page.line, value, _tag(name))
            y += page.line * 3 // 2
        y += page.line
    return y


def _parties(page: Page, provider: Provider, customer: str, address: str, y: int) -> int:
    x = 520 if provider.mirrored else provider.left
    end = page.write(x, y, provider.labels["customer"])
    if provider.customer_above:
        y += page.line
    else:
        x = end
    for text, tag in ((customer, _tag("customer")), (address, 0)):
        page.write(x, y, text, tag)
        y += page.line
    return y


def _items(page: Page, provider: Provider, lines: list[tuple[str, str, str]], y: int) -> int:
    columns = (provider.left, 600, 960)
    headings = tuple(provider.labels[name] for name in HEADINGS[1:])
    for cells in (headings, *lines):
        page.write(columns[0], y, cells[0])
        for right, text in zip(columns[1:], cells[1:], strict=True):
            page.write(right - page.width(text), y, text)
        y += page.line
    return y


def _row(
    rng: np.random.Generator, page: Page, provider: Provider, provider_id: str, document: str
) -> dict[str, Any]:
    """The page in reading order, block by block and line by line, with one question per field."""
    order = sorted(page.words, key=lambda word: (word.block, word.y0, word.x0))
    boxes = np.array([(word.x0, word.y0, word.x1, word.y1) for word in order])
    # Each page lies differently in the scanner: where a word stands says little without the others.
    # Integers throughout: rounding of floats may differ between machines.
    scale = int(rng.integers(850, 1001))
    boxes = boxes * scale // 1000 + np.tile(rng.integers(0, 1001 - scale, size=2), 2)
    boxes = np.clip(boxes + rng.integers(-2, 3, size=boxes.shape), 0, 1000)
    # A field's words come from one write(), so their order in the list is the order on the page.
    answers = {
        field: " ".join(word.text for word in order if word.tag == _tag(field)) for field in FIELDS
    }
    return {
        "document": document,
        "provider": provider_id,
        "words": [word.text for word in order],
        "boxes": boxes.tolist(),
        "tags": [word.tag for word in order],
        "questions": [choose(rng, QUESTIONS[field]) for field in FIELDS],
        "fields": list(FIELDS),
        "answers": [[answers[field]] for field in FIELDS],
    }
