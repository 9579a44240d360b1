"""Pictures of pages, for a model's visual encoder."""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError
from PIL.ImageFont import FreeTypeFont
from torch import Tensor

from fl_app.data.invoices.marks import paint
from fl_app.faults import during

TRIAL = 100  # the font size at which words are measured

# As in DiT's image processor (preprocessor_config.json of microsoft/dit-base): the whole page at
# the encoder's size, bilinear, values in -1..1. The result has the bits of BeitImageProcessorPil,
# which takes twice as long for a scan because it makes arrays of the full size.
RESAMPLE = Image.Resampling.BILINEAR
MEAN = STD = 0.5


def pixel_values(rows: Sequence[dict[str, Any]], visual: dict[str, Any]) -> Tensor:
    """Return the pages of rows as input of a visual encoder.

    Parameters
    ----------
    rows : sequence of dict
        See ``fl_app.data``; a row without a ``picture`` is drawn.
    visual : dict
        The config of the visual encoder, for its ``image_size``.

    Returns
    -------
    Tensor
        [rows, 3, height, width], float32 in -1..1.

    Raises
    ------
    FileNotFoundError, ValueError
        If a row's ``picture`` is missing or damaged.
    """
    size = visual.get("image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    pages = [_page(row, (width, height)) for row in rows]
    values = torch.from_numpy(np.stack([np.asarray(page) for page in pages]))
    return (values.permute(0, 3, 1, 2) / 255 - MEAN) / STD


def draw(row: dict[str, Any], size: tuple[int, int]) -> Image.Image:
    """Return the page of a row as a picture of (width, height) pixels.

    These are its words in their boxes, and its ``marks``, if it has some.
    """
    image = Image.new("RGB", size, "white")
    canvas = ImageDraw.Draw(image)
    boxes = scaled(row["boxes"], size)
    words = [word.replace("\n", " ") for word in row["words"]]  # Pillow aligns single lines only
    font = _fitting(words, boxes)
    for word, (x0, y0, _, y1) in zip(words, boxes, strict=True):
        canvas.text((x0, (y0 + y1) / 2), word, fill="black", font=font, anchor="lm")
    for mark in row.get("marks") or ():
        (box,) = scaled([mark["box"]], size)
        paint(canvas, mark["kind"], mark["colour"], box)
    return image


def scaled(boxes: Sequence[Sequence[int]], size: tuple[int, int]) -> list[tuple[float, ...]]:
    """Return boxes, given in thousandths of the page, in pixels of a picture (width, height)."""
    across, down = size[0] / 1000, size[1] / 1000
    return [(x0 * across, y0 * down, x1 * across, y1 * down) for x0, y0, x1, y1 in boxes]


def _page(row: dict[str, Any], size: tuple[int, int]) -> Image.Image:
    if row.get("picture") is None:
        return draw(row, size)
    with during("picture"):
        return _opened(row["picture"]).resize(size, RESAMPLE)


def _opened(path: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["JPEG"]) as image:
                return image.convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"the picture {path} is missing: set the data set's folder of pictures to its place, "
            "or prepare the data again"
        ) from None
    except (
        OSError,
        SyntaxError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise ValueError(
            f"the picture {path} is not a readable JPEG of a page: {error}; replace the file"
        ) from None


def _fitting(words: Sequence[str], boxes: Sequence[tuple[float, ...]]) -> FreeTypeFont:
    """Return one font for the page, in the size at which a typical word fills its box."""
    lengths = map(_length, words)
    scales = sorted(
        (x1 - x0) / length for length, (x0, _, x1, _) in zip(lengths, boxes, strict=True) if length
    )
    size = TRIAL * scales[len(scales) // 3] if scales else 0
    return _font(max(round(size * 4) / 4, 1))  # rounded, so that few sizes fill the cache


@lru_cache(maxsize=1 << 14)
def _length(word: str) -> float:
    return _font(TRIAL).getlength(word)


@lru_cache(maxsize=64)
def _font(size: float) -> FreeTypeFont:
    import matplotlib  # slow to import, and not needed by models without pictures

    path = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")  # has every letter used
    # The basic layout is the same on every machine; the other one depends on system libraries.
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
