"""Lay out pages of synthetic invoices: words and boxes, in thousandths of the page."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np

from fl_app.data.invoices.provider import QUESTIONS, Provider, draw_name, draw_number
from fl_app.data.invoices.vocabulary import FIELDS, HEADINGS
from fl_app.data.random_streams import choose


@dataclass(frozen=True)
class Word:
    """A word on a page: its block, the corners of its box, its text and its field (0: none)."""

    block: int
    x0: int
    y0: int
    x1: int
    y1: int
    text: str
    tag: int


class Page:
    """A page while it is written.

    Parameters
    ----------
    line : int
        Distance of lines.
    char : int
        Width of a character.

    Attributes
    ----------
    block : int
        The block that is being written.
    words : list of Word
        What has been written.
    """

    def __init__(self, line: int, char: int) -> None:
        self.line = line
        self.char = char
        self.block = 0
        self.words: list[Word] = []

    def width(self, text: str) -> int:
        """Return the width of ``text``."""
        return len(text) * self.char

    def write(self, x: int, y: int, text: str, tag: int = 0) -> int:
        """Write ``text`` from ``x`` on the line whose top is ``y``.

        Return the x at which the next word would start.
        """
        for word in text.split():
            end = x + self.width(word)
            self.words.append(Word(self.block, x, y, end, y + self.line * 2 // 3, word, tag))
            x = end + self.char
        return x


def format_amount(cents: int, separators: tuple[str, str], currency: str) -> str:
    """Return an amount as text, such as "12.345,67 €" for 1234567 cents.

    Parameters
    ----------
    cents : int
        The amount.
    separators : (str, str)
        Of thousands and of decimals.
    currency : str
        The text around the number, with ``{}`` in its place.
    """
    thousands, decimal = separators
    whole = f"{cents // 100:,}".replace(",", thousands)
    return currency.format(f"{whole}{decimal}{cents % 100:02}")


def format_date(day: date, pattern: str, months: tuple[str, ...]) -> str:
    """Return a day as text.

    Parameters
    ----------
    day : date
        The day.
    pattern : str
        Fields: {Y} year, {y} its last two digits, {m} month, {d} day, {M} name of the month, {B}
        its first three letters.
    months : tuple of str
        The twelve names.
    """
    month = months[day.month - 1]
    return pattern.format(
        Y=day.year, y=day.year % 100, m=day.month, d=day.day, M=month, B=month[:3].capitalize()
    )


def draw_content(
    rng: np.random.Generator, provider: Provider
) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """Return a document's values by field, and its items as (description, quantity, amount)."""
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
        lines.append((draw_name(rng), str(quantity), amount))
    shipping = int(rng.integers(300, 4000)) if "shipping" in provider.distractors else 0
    tax = (subtotal + shipping) * provider.tax_rate // 100
    customer = [draw_name(rng) for _ in range(int(rng.integers(1, 3)))]
    values = {
        "invoice_number": draw_number(rng, provider.invoice_number),
        "invoice_date": day(issued),
        "due_date": day(due),
        "order_number": draw_number(rng, provider.order_number),
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


def next_block(flow: tuple[str, ...], name: str) -> str:
    """Return the block after ``name``, "" after the last."""
    return (*flow, "")[flow.index(name) + 1]


def write_letterhead(page: Page, provider: Provider, y: int) -> int:
    """Write the provider's name and address and the title from ``y``; return the bottom."""
    page.write(provider.left, y, provider.name)
    title = provider.labels["title"]
    page.write(960 - page.width(title), y, title)
    page.write(provider.left, y + page.line, provider.address)
    return y + 3 * page.line


def write_pairs(
    page: Page,
    provider: Provider,
    layout: str,
    names: tuple[str, ...],
    values: dict[str, str],
    right: bool,
    y: int,
) -> int:
    """Write labels with their values from ``y``; return the bottom.

    Parameters
    ----------
    layout : str
        "left": the value follows its label; "column": values are aligned on the right; "above":
        the label stands above its value; "row": labels are headings of a table with one line of
        values.
    names : tuple of str
        The fields to write, in this order.
    values : dict
        Field -> text.
    right : bool
        On the right half of the page; a "row" takes the whole width.
    """
    x = 520 if right else provider.left
    if layout == "row":
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
        if layout == "left":
            page.write(page.write(x, y, label), y, value, _tag(name))
        elif layout == "column":
            page.write(x, y, label)
            page.write(x + 410 - page.width(value), y, value, _tag(name))
        else:
            page.write(x, y, label)
            page.write(x, y + page.line, value, _tag(name))
            y += page.line * 3 // 2
        y += page.line
    return y


def write_parties(page: Page, provider: Provider, customer: str, address: str, y: int) -> int:
    """Write the customer's label, name and address from ``y``; return the bottom."""
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


def write_items(page: Page, provider: Provider, lines: list[tuple[str, str, str]], y: int) -> int:
    """Write the table of items from ``y``; return the bottom."""
    columns = (provider.left, 600, 960)
    headings = tuple(provider.labels[name] for name in HEADINGS[1:])
    for cells in (headings, *lines):
        page.write(columns[0], y, cells[0])
        for right, text in zip(columns[1:], cells[1:], strict=True):
            page.write(right - page.width(text), y, text)
        y += page.line
    return y


def to_row(
    rng: np.random.Generator, page: Page, provider: Provider, provider_id: str, document: str
) -> dict[str, Any]:
    """Return the page as a row of ``fl_app.data``, with one question per field.

    Words are in reading order, block by block and line by line.
    """
    order = sorted(page.words, key=lambda word: (word.block, word.y0, word.x0))
    boxes = np.array([(word.x0, word.y0, word.x1, word.y1) for word in order])
    # Each page is scaled and shifted differently, as in a scanner: the place of a word says little
    # without the others. Integers only: rounding of floats may differ between machines.
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
