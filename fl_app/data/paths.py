"""Which paths and names of data sets are allowed: checked before any data library is imported."""

import re
from pathlib import Path

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
PICTURES = "pictures"  # the folder that the converter of PFL-DocVQA writes pictures to


def is_converted(path: object) -> bool:
    """Tell whether ``path`` is the absolute path of a folder with the converter's files."""
    if not isinstance(path, str) or not Path(path).is_absolute():
        return False
    return (Path(path) / "dataset_dict.json").is_file() and (Path(path) / PICTURES).is_dir()


def is_source(path: object) -> bool:
    """Tell whether ``path`` is an absolute path that exists, or may be the id of a data set."""
    if not isinstance(path, str):
        return False
    if Path(path).is_absolute():
        return is_source_name(path) and Path(path).exists()
    # A folder of that name in the current folder would take precedence in `datasets`.
    return is_source_name(path) and not Path(path).exists()


def is_source_name(path: object) -> bool:
    """Tell whether ``path`` has the form of an absolute path or of a data set's id.

    The answer is the same on every machine. An absolute path is taken literally. URLs and chains of
    them, which ``datasets`` would download, are refused, and so are the names of its own formats,
    for which it would read files of the current folder.
    """
    if not isinstance(path, str) or "\0" in path:
        return False
    if Path(path).is_absolute():
        return True
    return HUB_ID.fullmatch(path) is not None and ("/" in path or not _is_format(path))


def _is_format(name: str) -> bool:
    """Tell whether ``name``, which has no slash, is that of a format of ``datasets``."""
    from datasets import packaged_modules

    return name in packaged_modules._PACKAGED_DATASETS_MODULES
