"""PFL-DocVQA in small: the published files, and what the converter makes of them."""

import shutil
from pathlib import Path

import pytest

from fl_app.data.pfl_docvqa_convert import main
from tests import pfl_docvqa as files

TRUST = "--i-trust-these-pickles"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "source"
    files.write(folder)
    return folder


@pytest.fixture(scope="module")
def converted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "out"
    assert main([str(source), str(out), TRUST]) == 0
    return out


@pytest.fixture
def damaged(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "source"))
