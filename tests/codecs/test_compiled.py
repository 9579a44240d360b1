"""Kernels are compiled once a machine, and without a compiler every codec gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fl_app.codecs import from_spec
from fl_app.codecs.parts import compiled
from tests import make_golden
from tests.old_processor import environment

ROOT = Path(__file__).parents[2]

# The two kernels of delta are quick to compile.
ENCODE = """
import gc
import json
import numpy as np
from numba.core.dispatcher import Dispatcher
from fl_app.codecs import chain, delta, fp32
tree, codec = {"a": np.arange(100, dtype=np.float32)}, chain(delta(), fp32())
wire, _ = codec.encode(tree, codec.init(tree), tree)
codec.decode(wire, tree)
stats = [x.stats for x in gc.get_objects() if isinstance(x, Dispatcher)]
hits = sum(sum(s.cache_hits.values()) for s in stats)
misses = sum(sum(s.cache_misses.values()) for s in stats)
print(json.dumps([hits, misses]))
"""

GOLDENS = """
import json
import sys
if sys.argv[1:] == ["plain"]:
    sys.modules["numba"] = None
from fl_app.codecs.parts import compiled
from tests.codecs.test_compiled import frames
assert (compiled.numba is None) == (sys.argv[1:] == ["plain"])
print(json.dumps(frames()))
"""


def frames() -> dict[str, str]:
    """Check all golden frames; return a digest by codec of other values, whose sums are rounded."""
    digests = json.loads(make_golden.DIGESTS.read_text())
    rng = np.random.Generator(np.random.PCG64(5))
    tree, ref = ({"a": rng.random((300, 200), np.float32) - np.float32(0.3)} for _ in range(2))
    found = {}
    for name, spec in make_golden.SPECS.items():
        data = (make_golden.FOLDER / f"{name}.bin").read_bytes()
        assert make_golden.frame(spec) == data, f"{name}: other bytes"
        assert make_golden.decoded(spec, data) == digests[name], f"{name}: other values"
        codec = from_spec(spec)
        wire, _ = codec.encode(tree, codec.init(ref), ref)
        found[name] = hashlib.sha256(b"".join(wire.sections)).hexdigest()
    return found


needs_numba = pytest.mark.skipif(compiled.numba is None, reason="nothing is compiled")


def run(code: str, folder: Path, *args: str, **env: str):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CPU_")}
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def bundle(folder: Path, age: int) -> Path:
    """The package as Flower unpacks it: another folder, other times."""
    ignored = shutil.ignore_patterns("*.safetensors", "__pycache__")
    shutil.copytree(ROOT / "fl_app", folder / "fl_app", ignore=ignored)
    for path in (folder / "fl_app").rglob("*"):
        os.utime(path, (1e9 + age, 1e9 + age))
    return folder


@needs_numba
def test_a_second_process_in_another_folder_compiles_nothing(tmp_path):
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    hits, misses = run(ENCODE, bundle(tmp_path / "one", age=0), **env)
    assert hits == 0
    assert misses > 0
    again, missed = run(ENCODE, bundle(tmp_path / "two", age=1000), **env)
    assert again > 0
    assert missed == 0
    root = tmp_path / "cache" / "thinwire"
    assert stat.S_IMODE(root.stat().st_mode) == 0o700

    # nor is another processor's code run
    assert (
        run(ENCODE, tmp_path / "two", NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="", **env)[0]
        == 0
    )

    # a damaged cache costs time, nothing else
    for path in root.rglob("*.nb?"):
        path.write_bytes(path.read_bytes()[:50])
    hits, misses = run(ENCODE, tmp_path / "two", **env)
    assert hits == 0
    assert misses > 0


@needs_numba
def test_entries_go_by_the_content_of_the_package(tmp_path, monkeypatch):
    def digest(folder: Path) -> str:
        monkeypatch.setattr(compiled, "_PACKAGE", folder / "fl_app" / "codecs")
        compiled._digest.cache_clear()
        return compiled._digest()

    one = bundle(tmp_path / "one", age=0)
    first = digest(one)
    assert digest(bundle(tmp_path / "two", age=1000)) == first
    changed = one / "fl_app" / "codecs" / "base.py"
    changed.write_text(changed.read_text() + "\n# changed\n")
    assert digest(one) != first
    monkeypatch.undo()
    compiled._digest.cache_clear()


@needs_numba
@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o500])
def test_a_folder_that_others_may_enter_is_not_used(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "thinwire").mkdir()
    (tmp_path / "thinwire").chmod(mode)
    private = mode == 0o500
    assert (compiled.cache_root() is not None) == private
    if not private:
        assert compiled._Locator.from_function(compiled.jit, compiled.__file__) is None


def test_no_private_folder_no_cache(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "thinwire").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled.cache_root() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert compiled.cache_root() == tmp_path / "elsewhere" / "thinwire"
    monkeypatch.setattr(os, "getuid", lambda: -1)
    assert compiled.cache_root() is None


def test_a_relative_cache_home_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for home in ("", "cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", home)
        assert compiled.cache_root() == tmp_path / ".cache" / "thinwire"


def test_every_codec_gives_the_golden_bytes_without_numba_and_on_an_old_processor():
    """And the same bytes as here of values whose sums are rounded."""
    here = frames()
    assert run(GOLDENS, ROOT, "plain") == here
    assert run(GOLDENS, ROOT, **environment()) == here
