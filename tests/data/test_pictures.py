"""Pictures of pages: as DiT's processor makes them, drawn where there is none, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import BeitImageProcessorPil

from fl_app.data.invoices.load import make_documents
from fl_app.data.invoices.pictures import draw, pixel_values
from fl_app.data.invoices.provider import POOLS

VISUAL = {"image_size": 224}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return make_documents(1, POOLS["federated"], range(8), range(1))


@pytest.fixture
def scan(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    path = tmp_path / "page.jpg"
    draw(rows[0], (850, 1100)).save(path)
    return path


def test_a_scan_becomes_what_dits_processor_makes_of_it(scan: Path) -> None:
    processor = BeitImageProcessorPil(
        size={"height": 224, "width": 224}, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    expected = processor(Image.open(scan), return_tensors="pt")["pixel_values"]
    assert torch.equal(pixel_values([{"picture": str(scan)}], VISUAL), expected)


def test_a_picture_is_used_before_the_words(scan: Path, rows: list[dict[str, Any]]) -> None:
    drawn = pixel_values([rows[1] | {"picture": None}], VISUAL)
    assert torch.equal(drawn, pixel_values([rows[1]], VISUAL))
    opened = pixel_values([rows[1] | {"picture": str(scan)}], VISUAL)
    assert torch.equal(opened, pixel_values([{"picture": str(scan)}], VISUAL))
    assert not torch.equal(opened, drawn)


@given(st.integers(0, 900), st.integers(0, 900), st.sampled_from([64, 224, (96, 64)]))
def test_a_word_is_drawn_in_its_box(x: int, y: int, size: int | tuple[int, int]) -> None:
    row = {"words": ["Total"], "boxes": [[x, y, x + 100, y + 40]]}
    pixels = pixel_values([row], {"image_size": size})
    height, width = pixels.shape[2:]
    assert (height, width) == ((size, size) if isinstance(size, int) else size)
    assert pixels.min() >= -1
    assert pixels.max() == 1
    down, across = np.nonzero((pixels[0, 0] < 0.9).numpy())
    assert len(down) > 0
    slack = 3  # pixels, of type that is a few pixels high
    assert x * width / 1000 - slack <= across.min()
    assert across.max() <= (x + 100) * width / 1000 + slack
    assert y * height / 1000 - slack <= down.min()
    assert down.max() <= (y + 40) * height / 1000 + slack


def test_pages_without_words_and_odd_words_are_drawn() -> None:
    blank = pixel_values([{"words": [], "boxes": []}], VISUAL)
    assert (blank == 1).all()
    odd = {"words": ["", "two\nlines", " "], "boxes": [[0, 0, 9, 9], [0, 50, 99, 90], [5, 5, 5, 5]]}
    assert (pixel_values([odd], VISUAL) < 1).any()


@pytest.mark.parametrize("damage", ["missing", "cut", "other", "bomb"])
def test_a_bad_picture_is_one_clear_error(
    damage: str, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error: type[Exception] = ValueError
    if damage == "missing":
        scan.unlink()
        error = FileNotFoundError
    elif damage == "cut":
        scan.write_bytes(scan.read_bytes()[:2000])
    elif damage == "other":
        Image.new("RGB", (8, 8)).save(scan, format="PNG")
    else:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 850 * 1100 - 1)
    with pytest.raises(error, match=f"the picture {scan}"):
        pixel_values([{"picture": str(scan)}], VISUAL)
