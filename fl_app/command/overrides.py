"""Help about overrides: the groups of ``conf/`` and the names in them."""

import argparse
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

CONF = Path(__file__).parents[2] / "conf"  # as ``fl_app.config.CONF_DIR``, without importing Hydra
FIRST = ("experiment", "model", "task", "data", "adapter", "strategy", "codec")
HIDDEN = ("sweep",)  # chosen with a plus, in sweeps alone


def parser(command: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return the parser of a subcommand that takes overrides."""
    made = argparse.ArgumentParser(
        prog=f"thinwire {command}",
        usage=f"thinwire {command} [KEY=VALUE ...]",
        description=f"{description}\n\n{HOW}\n{groups()}",
        epilog=f"examples:\n{textwrap.indent(textwrap.dedent(examples).strip(), '  ')}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("overrides", nargs="*", help=argparse.SUPPRESS)
    made.add_argument(
        "--conf", metavar="DIR", help="a folder with experiments of your own: DIR/experiment/*.yaml"
    )
    return made


def dashed(arguments: Sequence[str]) -> str | None:
    """Return what to write in place of ``--KEY VALUE``; None if there is no such argument."""
    for at, word in enumerate(arguments):
        key, equals, value = word.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if word.startswith("--") and word != "--conf" and key.partition(".")[0] in _keys():
            if not equals and at + 1 < len(arguments):
                value = arguments[at + 1]
            return f"{word} is no option: write {key}={value or 'VALUE'}"
    return None


def _keys() -> set[str]:
    """Return the groups, and the keys that belong to no group."""
    lines = (CONF / "config.yaml").read_text(encoding="utf-8").splitlines()
    keys = {line.partition(":")[0] for line in lines if re.match(r"\w+:", line)}
    return {folder.name for folder in CONF.iterdir() if folder.is_dir()} | keys - {"defaults"}


HOW = """\
Options are overrides of the files in conf/: GROUP=NAME chooses a file, KEY=VALUE sets one of its
values (rounds=3, optimizer.lr=1e-3), ~KEY removes an entry. `thinwire check` says which keys exist
when one is misspelt, and which values a key may have.
"""


def groups() -> str:
    """Return the groups and the names of their files, as lines of at most 100 characters."""
    found = {
        folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in CONF.iterdir()
        if folder.is_dir() and folder.name not in HIDDEN
    }
    names = [*FIRST, *sorted({*found} - {*FIRST})]
    width = max(map(len, names)) + 4
    return "\n".join(
        textwrap.fill(
            " ".join(found[name]),
            width=100,
            initial_indent=f"  {name:<{width - 2}}",
            subsequent_indent=" " * width,
            break_on_hyphens=False,
        )
        for name in names
        if found.get(name)
    )
