"""Draw a document: ``python -m fl_app.data.preview --split test --index 0 --out page.png``."""

import argparse
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from fl_app.config import compose
from fl_app.data import load

SCALE = 1.2  # pixels per thousandth of the page
RATIO = 1.3  # height of the page by its width
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
    """The page of a row: words in their boxes, the fields' boxes in colour."""
    across, down = SCALE, SCALE * RATIO
    image = Image.new("RGB", (round(1000 * across), round(1000 * down)), "white")
    canvas = ImageDraw.Draw(image)
    for word, (x0, y0, x1, y1), tag in zip(row["words"], row["boxes"], row["tags"], strict=True):
        box = (x0 * across, y0 * down, max(x1, x0 + 1) * across, max(y1, y0 + 1) * down)
        canvas.rectangle(box, outline=COLOURS[tag], width=2 if tag else 1)
        # The largest type that the box holds.
        font = ImageFont.load_default(size=(y1 - y0) * down * 0.8)
        width = max(1.0, canvas.textlength(word, font=font))
        size = max(6.0, font.size * min(1.0, (box[2] - box[0] - 2) / width))
        font = ImageFont.load_default(size=size)
        canvas.text((box[0] + 1, box[1]), word, fill="black", font=font)
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description="draw a document of DocVQA-mini")
    parser.add_argument("--split", default="test", choices=("train", "test", "unseen"))
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--out", default="page.png")
    arguments = parser.parse_args()
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
