"""Measurements that last: a JSON file, to which each is added as soon as it is there.

The file has ``settings``, what all share, and ``measured``, a list: what was asked for (a seed and
the like), what was found, and the machine and versions. What is there is not measured again.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fl_app.files import atomic_file
from fl_app.runs import machine
from fl_app.runs.summary import versions


def measured(
    file: Path,
    settings: Mapping[str, Any],
    asked: Iterable[Mapping[str, Any]],
    measure: Callable[..., Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return all measurements of the file, after making those that it lacks.

    Parameters
    ----------
    file : Path
        Made with its folder when the first measurement is there.
    settings : mapping
        Of all measurements.
    asked : iterable of mapping
        The arguments of ``measure``, one after the other.
    measure : callable
        Returns what was found; all of it JSON.

    Raises
    ------
    ValueError
        If the file is there with other settings.
    """
    found: dict[str, Any] = {"settings": dict(settings), "measured": []}
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["settings"] != settings:
            raise ValueError(
                f"{file} has the settings {found['settings']}, not {settings}: name another file"
            )
    for one in asked:
        if any(one.items() <= there.items() for there in found["measured"]):
            continue
        entry = {**one, **measure(**one), "machine": machine.described("cpu")}
        found["measured"].append({**entry, "versions": versions()})
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_file(file, json.dumps(found, indent=1).encode())
        print(f"{file}: {', '.join(f'{key} {value}' for key, value in one.items())}", flush=True)
    return found["measured"]
