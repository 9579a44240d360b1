"""End to end: a wheel in an environment of its own, in a folder that is no checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from fl_app.files import RESULTS
from tests import small

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PARTS = ("fl_app", "strategies", "conf", "pyproject.toml", "README.md", "LICENSE")
FLWR = "import sys\nfrom flwr.cli.app import app\nsys.exit(app())\n"


def built(folder: Path) -> Path:
    """Build the wheel from a copy, since setuptools leaves files beside what it builds."""
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, folder / "source" / part, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / part, folder / "source" / part)
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(folder / "source"))
    (wheel,) = folder.glob("*.whl")
    return wheel


def pip(*words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *words],
        check=True, timeout=300,
    )  # fmt: skip


def installed_alone(wheel: Path, folder: Path) -> Path:
    """Install the wheel into a new environment, and return the folder of its commands.

    Other packages are those of this environment: nothing is downloaded. Its project is not seen
    there, since Python reads no .pth file of a folder that a .pth file names.
    """
    venv.create(folder, symlinks=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    pip("--python", str(folder), "install", "--no-deps", "--no-index", str(wheel))
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    commands = Path(sysconfig.get_path("scripts", "venv", paths))
    (commands / "flwr").write_text(f"#!{commands / 'python'}\n{FLWR}")
    (commands / "flwr").chmod(0o755)
    return commands


def test_a_wheel_runs_anywhere_imports_nothing_there_and_leaves_its_results(tmp_path: Path) -> None:
    wheel, empty = built(tmp_path), tmp_path / "empty"
    names = {*zipfile.ZipFile(wheel).namelist()}
    assert {
        "conf/config.yaml", "strategies/fed_sb.py", "fl_app/py.typed", "fl_app/report/page.css",
        "fl_app/models/vt5_tiny/model.safetensors", "fl_app/simulation/app/pyproject.toml",
    } <= names  # fmt: skip
    commands = installed_alone(wheel, tmp_path / "venv")
    mine = ("yaml.py", "strategies.py", "conf.py")
    empty.mkdir()
    for name in mine:
        (empty / name).write_text("raise SystemExit('imported from the folder of results')")
    told = ("PYTHONPATH", "FLWR_HOME", RESULTS)
    words = [*small.DATA.split(), "rounds=1", "local_epochs=1", "codec=top_k", "output.name=first"]
    done = subprocess.run(
        [commands / "thinwire", "run", *words], cwd=empty, capture_output=True, text=True,
        timeout=400, check=False, env={k: v for k, v in os.environ.items() if k not in told},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((empty / "runs/first/summary.json").read_text())
    assert summary["status"] == "completed"
    assert (empty / "runs/first/report.html").is_file()
    said = done.stdout.splitlines()  # no terminal: lines alone
    assert said[0] == "checking the configuration ..."
    assert "loading the model ..." in said
    assert any(re.match(r"round 1 of 1: client \d+ trains; [\d.]+ k?B down, ", one) for one in said)
    assert "\x1b" not in done.stdout
    assert (empty / "runs/.nodes").is_dir()  # what clients' codecs remember, for a resumed run
    assert {path.name for path in empty.iterdir()} == {"runs", *mine}
    again = subprocess.run(
        [commands / "thinwire", "report", "runs"], cwd=empty, capture_output=True, check=True
    )
    assert again.stdout
