"""Draw a document: ``python -m fl_app.data.preview --split test --index 0 --out page.png``."""

import argparse
from typing import Any

from PIL import Image, ImageDraw

from fl_app.config import SPLITS, compose
from fl_app.data import load
from fl_app.data.invoices.pictures import draw as draw_page
from fl_app.data.invoices.pictures import scaled
from fl_app.files import keep_private

SIZE = (1200, 1560)  # pixels
COLOURS = (
    "#bbbbbb",
    "#1f77b4",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#bcbd22",
    "#ff7f0e",
)


def draw(row: dict[str, Any]) -> Image.Image:
    """Return the page of a row: words in their boxes, the fields' boxes in colour."""
    image = draw_page(row, SIZE)
    canvas = ImageDraw.Draw(image)
    for box, tag in zip(scaled(row["boxes"], SIZE), row["tags"], strict=True):
        canvas.rectangle(box, outline=COLOURS[tag], width=2 if tag else 1)
    return image


def main() -> None:
    """Draw the document that the command line names, and print its questions and answers."""
    parser = argparse.ArgumentParser(description="draw a document of DocVQA-mini")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--out", default="page.png")
    arguments = parser.parse_args()
    keep_private()
    split = load(compose().data, seed=0)[arguments.split]
    if not 0 <= arguments.index < len(split):
        parser.error(f"--index must be in 0..{len(split) - 1}")
    row = split[arguments.index]
    draw(row).save(arguments.out)
    print(f"{arguments.out}: document {row['document']} of {row['provider']}")
    for question, answers in zip(row["questions"], row["answers"], strict=True):
        print(f"  {question} {' | '.join(answers)}")


if __name__ == "__main__":
    main()
