"""Suggestions for misspelt names in error messages."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 100  # characters of a word that is compared; a name has fewer


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the known name that is most like ``word``.

    Parameters
    ----------
    word : object
        What was given; only a text is compared.
    known : iterable of str
        The names that it could be.

    Returns
    -------
    str
        With a blank before it; "" if no name is like ``word``.
    """
    if not isinstance(word, str) or len(word) > LONGEST:
        return ""
    names = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), names, n=1, cutoff=0.65)
    return f" Did you mean '{names[close[0]]}'?" if close else ""


def did_you_mean_key(key: str, known: Iterable[str]) -> str:
    """Return the suggestion for a dotted key: ``lr`` may mean ``optimizer.lr``.

    Parameters
    ----------
    key : str
        What was given.
    known : iterable of str
        All keys, dotted.
    """
    names = [name for name in known if "._" not in name and not key.startswith(f"{name}.")]
    word = key.rpartition(".")[2]
    same = [name for name in names if name.rpartition(".")[2] == word]
    if 1 <= len(same) <= 2:
        return _either(same)
    if said := did_you_mean(key, names):
        return said
    part = [name for name in names if word in name.rpartition(".")[2].split("_")]
    return _either(part) if 1 <= len(part) <= 2 else ""


def _either(names: list[str]) -> str:
    return f" Did you mean {' or '.join(map(repr, names))}?"
