"""Draw a document: ``python -m fl_app.data.preview --split test --index 0 --out page.png``."""

import argparse
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from fl_app.config import compose
from fl_app.data import load

FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")  # has every letter used
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
    boxes = [(x0 * across, y0 * down, x1 * across, y1 * down) for x0, y0, x1, y1 in row["boxes"]]
    font = _font(row["words"], boxes)
    for word, box, tag in zip(row["words"], boxes, row["tags"], strict=True):
        canvas.rectangle(box, outline=COLOURS[tag], width=2 if tag else 1)
        canvas.text((box[0] + 2, (box[1] + box[3]) / 2), word, fill="black", font=font, anchor="lm")
    return image


def _font(words: list[str], boxes: list[tuple[float, float, float, float]]) -> FreeTypeFont:
    """One type for the page, of a size at which an ordinary word fills its box."""
    trial = ImageFont.truetype(FONT, 100)
    scales = sorted(
        (x1 - x0) / trial.getlength(word) for word, (x0, _, x1, _) in zip(words, boxes, strict=True)
    )
    return ImageFont.truetype(FONT, 100 * scales[len(scales) // 3] if scales else 10)


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
