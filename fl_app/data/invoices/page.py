"""Pages of synthetic invoices: words and boxes."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np

from fl_app.data.invoices.provider import QUESTIONS, Provider, _fill, _name
from fl_app.data.invoices.vocabulary import FIELDS, HEADINGS
from fl_app.data.random_streams import choose


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
