"""What docs, comments and configuration call by a dotted name or a path is there."""

import re
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("fl_app", "strategies", "benchmarks", "deploy", "conf", "docs")
TEXTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile")),
    *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.*"))),
]
SUFFIXES = {"", ".py", ".md", ".yaml", ".sh"}
OURS = r"(?<![\w./-])(?:fl_app|strategies|benchmarks|deploy"
DOTTED = re.compile(OURS + r")(?:\.[A-Za-z_]\w*)+(?!\w|/|\()")
PATHS = re.compile(OURS + r"|conf|tests)/[\w/.-]+\.(?:py|yaml)\b")
EXAMPLES = {
    *("strategies.every_other.EveryOtherClient", "strategies/every_other.py"),
    *("fl_app/codecs/half_scale.py", "fl_app/adapters/norms.py", "conf/experiment/NAME.yaml"),
    "conf/experiment/mine.yaml",  # which `thinwire init` writes
    *(f"conf/{name}.yaml" for name in ("strategy/every_other", "codec/half_scale")),
    *("conf/adapter/norms.yaml", "conf/sweep/NAME.yaml"),
    *("fl_app/augment/first_words.py", "conf/augment/first_words.yaml"),
}


@cache
def exists(name: str) -> bool:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            spec = find_spec(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        if spec is not None:
            found = import_module(".".join(parts[:cut])) if cut < len(parts) else None
            for attribute in parts[cut:]:
                if not hasattr(found, attribute):
                    return False
                found = getattr(found, attribute)
            return True
    return False


def test_what_texts_name_is_there() -> None:
    missing: dict[str, set[str]] = {}
    for path in TEXTS:
        if path.suffix not in SUFFIXES:
            continue
        text = path.read_text(encoding="utf-8")
        names = {one for one in {*DOTTED.findall(text)} - EXAMPLES if not exists(suffix_off(one))}
        names |= {one for one in {*PATHS.findall(text)} - EXAMPLES if not (ROOT / one).exists()}
        if names:
            missing[str(path.relative_to(ROOT))] = names
    assert not missing


def suffix_off(name: str) -> str:
    return re.sub(r"\.(?:py|yaml|sh|md)$", "", name)
