"""Providers of synthetic invoices: their names, formats and layouts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fl_app.data.invoices.vocabulary import (
    DISTRACTORS,
    FEDERATED,
    FIELDS,
    HEADINGS,
    PRETRAINING,
    Vocabulary,
    pseudo_word,
)
from fl_app.data.random_streams import choose, generator

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
    """What the providers of a pool choose from.

    Attributes
    ----------
    key : int
        Separates the random streams of the pools.
    vocabularies : tuple of Vocabulary
        Languages.
    pairs : tuple of str
        Layouts of a label and its value, see ``page.write_pairs``.
    flows : tuple of tuple of str
        Orders of the page's blocks.
    numbers : tuple of (str, str)
        Separators of thousands and of decimals.
    currencies : tuple of str
        Texts around an amount.
    dates : tuple of str
        Formats, see ``page.format_date``.
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
    """What all documents of one provider have in common."""

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
    customer_above: bool  # the label stands above the name instead of before it
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


def make_provider(seed: int, pool: Pool, number: int) -> Provider:
    """Return provider ``number`` of a pool."""
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
        address=draw_address(rng),
    )


def _number_pattern(rng: np.random.Generator) -> str:
    letters = "".join("ABCDEFGHKLMNPRSTVZ"[i] for i in rng.integers(18, size=2))
    forms = ("######", "20##-####", f"{letters}-#####", f"{letters}####", "###/###", "@##-###")
    return choose(rng, forms)


def draw_number(rng: np.random.Generator, pattern: str) -> str:
    """Return a number of a document, with a digit for each "#" and a letter for each "@"."""
    return "".join(
        str(rng.integers(10)) if c == "#" else "ABCDEFGH"[rng.integers(8)] if c == "@" else c
        for c in pattern
    )


def draw_name(rng: np.random.Generator) -> str:
    """Return a made-up name of one or two syllables."""
    return pseudo_word(rng, 1 + int(rng.integers(2))).capitalize()


def draw_address(rng: np.random.Generator) -> str:
    """Return a made-up street and number."""
    return f"{draw_name(rng)} {choose(rng, STREETS)} {rng.integers(1, 200)}"
