"""The card of a model that was trained with privacy: its guarantee, stored beside the weights."""

from pathlib import Path
from typing import Any

from fl_app.runs.text import guarantee


def write(folder: Path, experiment: str, spent: dict[str, Any]) -> None:
    """Write README.md into the folder of an exported model.

    Parameters
    ----------
    folder : Path
        The exported model.
    experiment : str
        The title of the card.
    spent : dict
        See ``fl_app.privacy.budget.spent``.
    """
    folder.joinpath("README.md").write_text(
        f"# {experiment}\n\nTrained by Thinwire. Privacy: {guarantee(spent)}.\n"
    )
