"""Names of columns that a configuration uses: which there are, and what they are called."""

from collections.abc import Iterable, Mapping, Sequence

from fl_app.faults import FaultError
from fl_app.faults.suggestions import did_you_mean


def check_known(key: str, known: Sequence[str], named: Iterable[str]) -> None:
    """Refuse names of columns that do not exist.

    Parameters
    ----------
    key : str
        The option that names them.
    known : sequence of str
        The columns.
    named : iterable of str
        What the option names.

    Raises
    ------
    FaultError
        Names the columns that are missing and those that exist.
    """
    unknown = sorted({*named} - {*known})
    if unknown:
        raise FaultError(
            "columns",
            f"{key} names {', '.join(unknown)}; the columns are {', '.join(known)}."
            f"{did_you_mean(unknown[0], known)}",
            missing=", ".join(unknown),
        )


def new_names(key: str, names: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    """Return the names of the columns after ``KEY.columns``, in order.

    Parameters
    ----------
    key : str
        The split's key in the configuration.
    names : sequence of str
        The columns of the source.
    columns : mapping of str to str
        The source's name -> the new name; others keep theirs.

    Raises
    ------
    ValueError
        If a column does not exist, or two get the same name.
    """
    check_known(f"{key}.columns", names, columns)
    new = [columns.get(name, name) for name in names]
    twice = sorted({name for name in new if new.count(name) > 1})
    if twice:
        raise ValueError(
            f"{key}.columns={dict(columns)} makes two columns {', '.join(twice)} of "
            f"{', '.join(names)}: give the other one another name there too"
        )
    return new
