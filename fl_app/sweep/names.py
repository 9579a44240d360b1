"""Names of the folders of a sweep's runs: what differs between its jobs stays readable."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from fl_app.config import read_yaml
from fl_app.config.data_only import key_of
from fl_app.runs.place import SWEEP

LONGEST = 120  # characters of a name; a file system takes 255 bytes, with what is added


def folder_name(number: int, own: Sequence[str], words: Sequence[str], varied: set[str]) -> str:
    """Return the name of a job's folder: its number and overrides, of at most `LONGEST` characters.

    Of one that is too long, first the overrides that all jobs share are left out, from the last
    one on; then keys of the others lose what stands before their last dot.

    Parameters
    ----------
    number : int
        Hydra's number of the job.
    own, words : sequence of str
        Its overrides: those of the key ``job``, and the others.
    varied : set of str
        The keys of those others that have several values in the sweep.
    """
    typed = {word: _key(word) in varied for word in words}
    shared = [word for word, differs in typed.items() if not differs]
    kept = [*own, *words]
    while len(_joined(number, kept)) > LONGEST and shared:
        kept.remove(shared.pop())
    if len(_joined(number, kept)) > LONGEST:
        kept = [re.sub(r"^[^=]*[./](?=[^=./]*=)", "", word) for word in kept]
    return _joined(number, kept)[:LONGEST]


def varying(sweep: Path) -> set[str]:
    """Return the keys that have several values in a sweep, by Hydra's record in its folder.

    It is the same for all its jobs, wherever they run; empty without a record that can be read.
    """
    try:
        hydra = read_yaml(sweep / SWEEP)["hydra"]
        params = hydra["sweeper"].get("params") or {}
        words = [f"{key}={value}" for key, value in params.items()]
        return {*_several([*map(str, hydra["overrides"]["task"]), *words])}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return set()


def _several(words: Iterable[str]) -> Iterable[str]:
    """Yield the keys of the overrides that have several values."""
    parser = OverridesParser.create()
    for word in words:
        try:
            one = parser.parse_override(word)
        except HydraException:
            continue  # of a sweeper's own grammar
        if one.is_sweep_override():
            yield key_of(one)


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~/")


def _joined(number: int, words: Iterable[str]) -> str:
    return re.sub(r"[^\w.+-]+", "-", " ".join([f"{number:03d}", *words]))
