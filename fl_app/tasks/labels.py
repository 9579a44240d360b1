"""Labels of a classifier: which output of the head a row's label means."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

LABEL_IS = ("name", "index")


def name_of(label: Any) -> str | None:
    """Return a label as it is written: 1 is "1". None for booleans, floats and what is no label.

    They are written in more than one way, which ``data.formats`` says.
    """
    return str(label) if isinstance(label, (int, str)) and not isinstance(label, bool) else None


def is_number(name: str) -> bool:
    """Return whether a label's name is a whole number."""
    return re.fullmatch(r"\s*[+-]?[0-9]+\s*", name) is not None


class Labels:
    """Labels by their names, or by their positions where the configuration says so.

    Parameters
    ----------
    names : sequence of str
        ``task.labels``.
    label_is : str
        ``task.label_is``. With "index" a whole number, also as a text, as in CSV, is a position in
        ``names``, of which none is a number; others are names all the same.
    outputs : dict of int to str
        The name of each of the head's outputs; other names than these are in the order of
        ``names``.
    """

    def __init__(self, names: Sequence[str], label_is: str, outputs: Mapping[Any, str]) -> None:
        self.by_index = label_is == "index"
        self.names = list(names)
        self.positions = [str(index) for index in range(len(self.names))]
        order = [outputs.get(index, "") for index in range(len(names))]
        self.outputs = order if {*order} == {*names} else self.names

    def name(self, label: Any) -> str | None:
        """Return the name that ``label`` means; None if it is none of them."""
        name = name_of(label)
        if self.by_index and name in self.positions:
            return self.names[self.positions.index(name)]
        return name if name in self.names else None

    def known(self, label: Any) -> str:
        """Return the name that ``label`` means.

        Raises
        ------
        ValueError
            It is none of them; the message says how rows can be mended.
        """
        name = self.name(label)
        if name is None:
            raise ValueError(
                f"it is {label!r}, and task.labels are {', '.join(self.names)}: "
                f"{self.advice(label)}"
            )
        return name

    def advice(self, label: Any) -> str:
        """Return how rows with such an unknown label can be mended."""
        whole = is_number(name_of(label) or "")
        if whole and not self.by_index and not any(map(is_number, self.names)):
            return "if numbers are positions in task.labels, set task.label_is=index"
        if isinstance(label, list):
            return "lists of labels need task.problem_type=multi_label_classification"
        if isinstance(label, (bool, float)):
            return "say with data.formats how booleans or floats are written, or store texts"
        return "leave such rows out with data.train.drop or data.test.drop"
