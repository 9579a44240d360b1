"""The trained models in a run's folder: that of the last round, and that of the best one.

``adapter-best/`` is the model of the round that the validation rows select
(``fl_app.runs.selection``), also where that is the last one. Without validation rows there is none:
a round that the test rows had selected would be judged by the same rows. It is written after the
checkpoint of its round, so that a resumed run can write it again, with the same bytes, if it was
stopped in between.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fl_app.files import replaced_folder
from fl_app.runs import model_card

LAST, BEST = "adapter", "adapter-best"


def write(
    run: Path, name: str, export: Callable[[Path], None], title: str, spent: dict[str, Any] | None
) -> None:
    """Write a model completely or not at all, in place of the one that is there.

    Parameters
    ----------
    run : Path
        The folder of the run.
    name : str
        ``LAST`` or ``BEST``.
    export : callable
        Writes the model into a folder.
    title, spent
        Of its card, see ``fl_app.runs.model_card``; None: it was trained without privacy.
    """
    with replaced_folder(run / name) as folder:
        export(folder)
        if spent is not None:
            model_card.write(folder, title, spent)


def best(run: Path) -> Path | None:
    """Return the folder of the best round's model; None if the run has none."""
    return run / BEST if (run / BEST).is_dir() else None
